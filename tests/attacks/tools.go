package attacks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// probe is the attackers' program on the nodes, tests/attacks/probe. s1 has
// none: it is locked from boot on.
const probe = "/usr/local/bin/probe"

func installProbe(ctx context.Context, s *deploy.Site) error {
	dir, err := os.MkdirTemp("", "cloister-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	local := filepath.Join(dir, "probe")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", local, "cloister/tests/attacks/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the attackers' program: %w: %s", err, out)
	}
	on := []string{cluster.Head, cluster.Login, cluster.S2, cluster.N1}
	failed := make([]error, len(on))
	var all sync.WaitGroup
	for i, node := range on {
		all.Go(func() { failed[i] = s.Put(ctx, node, local, probe, 0o755) })
	}
	all.Wait()
	return errors.Join(failed...)
}

// background starts a program as a unit of the node's systemd, where no lock
// of ours looks, until a call of the returned function or the site's end.
func background(ctx context.Context, s *deploy.Site, node, unit, command string) (stop func(), err error) {
	_, err = s.Output(ctx, node, "systemctl reset-failed "+unit+" 2>/dev/null; systemd-run -q --collect --unit="+unit+" "+command)
	return func() { s.Run(context.WithoutCancel(ctx), node, "systemctl stop "+unit) }, err
}

// linkLocal is a node's IPv6 address on the cluster's network.
func linkLocal(ctx context.Context, s *deploy.Site, node string) (string, error) {
	out, err := s.Output(ctx, node, "ip -6 -o addr show dev eth0 scope link")
	if err != nil {
		return "", err
	}
	for _, f := range strings.Fields(out) {
		if address, _, ok := strings.Cut(f, "/"); ok && strings.HasPrefix(address, "fe80:") {
			return address, nil
		}
	}
	return "", fmt.Errorf("%s has no IPv6 address: %q", node, out)
}

// each asks several attackers' ways in and makes one Success of those that
// led somewhere.
func each(ways map[string]bool, what string) error {
	var open []string
	for way, in := range ways {
		if in {
			open = append(open, way)
		}
	}
	if len(open) == 0 {
		return nil
	}
	slices.Sort(open)
	return got("%s: %s", what, strings.Join(open, "; "))
}
