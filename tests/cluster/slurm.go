package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// WaitIdle waits until slurmctld shows the given nodes, by default all of Slurm's, as idle.
func (c *Cluster) WaitIdle(ctx context.Context, nodes ...string) error {
	if len(nodes) == 0 {
		nodes = slurmNodes()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last string
	// Asking takes an emulated guest half a second of processor time.
	for nap := 200 * time.Millisecond; ; nap = min(nap*5/4, time.Second) {
		// Slurm's commands retry for minutes by themselves: timeout(1).
		r, err := c.Run(ctx, Head, "timeout 20 sinfo -h -N -o '%N %T'", Timeout(time.Minute))
		if err == nil {
			last = strings.TrimSpace(r.Stdout + r.Stderr)
			lines := strings.Split(last, "\n")
			if !slices.ContainsFunc(nodes, func(n string) bool { return !slices.Contains(lines, n+" idle") }) {
				return nil
			}
		}
		for _, g := range c.nodes {
			if dead := g.alive(); dead != nil && slices.Contains(nodes, g.spec.Name) {
				return fmt.Errorf("wait for idle nodes: %w", dead)
			}
		}
		if serr := sleep(ctx, nap); serr != nil {
			return fmt.Errorf("wait for idle nodes %v: %w (last seen: %q, %v)", nodes, serr, last, err)
		}
	}
}

// waitSlurm waits until a rebooted node has started its units and, for one of Slurm's, registered anew: before
// that slurmctld still shows what it knew of the node's earlier life.
func (c *Cluster) waitSlurm(ctx context.Context, node string) error {
	// Degraded is for the test to judge: --wait fails then.
	if _, err := c.Output(ctx, node, "systemctl is-system-running --wait; true", Timeout(patience)); err != nil {
		return err
	}
	switch {
	case node == Head:
		return c.WaitIdle(ctx)
	case !slices.Contains(slurmNodes(), node):
		_, err := c.Output(ctx, node, "mountpoint -q /shared")
		return err
	}
	// SlurmdStartTime comes from the node's own clock, as its boot time does.
	booted, err := c.Output(ctx, node, "awk '/^btime/{print $2}' /proc/stat")
	if err != nil {
		return err
	}
	registered := fmt.Sprintf(`while :; do
  t=$(timeout 20 scontrol show node -o %s | sed -n 's/.*SlurmdStartTime=\([^ ]*\).*/\1/p')
  [ -z "$t" ] || [ "$(date -d "$t" +%%s 2>/dev/null || echo 0)" -lt %s ] || exit 0
  sleep 0.5
done`, node, strings.TrimSpace(booted))
	if _, err := c.Output(ctx, Head, registered, Timeout(patience)); err != nil {
		return fmt.Errorf("wait for %s's slurmd to register: %w", node, err)
	}
	return c.WaitIdle(ctx, node)
}

// setClock gives a guest that stood still the host's time.
func (c *Cluster) setClock(ctx context.Context, g *node) error {
	behind, err := g.agent.clockLag()
	if err == nil && behind.Abs() > 20*time.Millisecond {
		// Relative: however long the guest takes to start date(1), the result is right.
		_, err = c.Output(ctx, g.spec.Name, fmt.Sprintf("date -u -s '%.3f seconds' >/dev/null", behind.Seconds()))
	}
	if err != nil {
		return fmt.Errorf("set %s's clock: %w", g.spec.Name, err)
	}
	return nil
}

// clockLag is how far the guest's clock is behind the host's, to half the time of the quickest of a few calls.
func (a *agent) clockLag() (lag time.Duration, err error) {
	for best, i := time.Hour, 0; i < 4; i++ {
		var guest int64 // ns since 1970
		before := time.Now()
		if err := a.call("guest-get-time", nil, &guest); err != nil {
			return 0, err
		}
		if took := time.Since(before); took < best {
			best, lag = took, before.Add(took/2).Sub(time.Unix(0, guest))
		}
	}
	return lag, nil
}
