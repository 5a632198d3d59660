package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
)

// A Site is a cluster with Cloister on it, and its researchers' laptops.
type Site struct {
	*cluster.Cluster
	bin string
	dir string
}

// Start returns a fresh site. What was installed is saved, so a second call
// with the same files takes seconds.
func Start(ctx context.Context, f Flavour, log func(string, ...any)) (*Site, error) {
	bin, err := Build(ctx, f)
	if err != nil {
		return nil, err
	}
	top, err := root()
	if err != nil {
		return nil, err
	}
	images, err := analysis.Tiny(ctx)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, a := range artifacts {
		files = append(files, filepath.Join(bin, a))
	}
	for _, pattern := range []string{"systemd/*.*", "systemd/*/*", "tests/deploy/[a-s]*.go"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				files = append(files, name)
			}
		}
	}
	key, err := fingerprint(append(files, images.Keyring)...)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Start(ctx, cluster.Options{PrepareKey: key, Log: log, Prepare: func(ctx context.Context, c *cluster.Cluster) error {
		laptops, err := os.MkdirTemp("", "cloister-laptops-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(laptops)
		in := &installer{Cluster: c, top: top, bin: bin, laptops: laptops, keyring: images.Keyring}
		return in.run(ctx)
	}})
	if err != nil {
		return nil, err
	}
	s := &Site{Cluster: c, bin: bin}
	if err := s.fetchLaptops(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// ForTest is Start for a test: closed with it, with the nodes' logs kept when
// it fails. The test runs beside others, in its turn (cluster.TakeTurn).
func ForTest(t *testing.T, f Flavour) *Site {
	t.Helper()
	t.Parallel()
	cluster.TakeTurn(t)
	began := time.Now()
	s, err := Start(t.Context(), f, t.Logf)
	if err != nil {
		t.Fatalf("starting a site: %v", err)
	}
	t.Logf("site ready after %.1f s", time.Since(began).Seconds())
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.EndWith(t)
	return s
}

func (s *Site) fetchLaptops(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "cloister-site-"); err != nil {
		return err
	}
	local := filepath.Join(s.dir, "laptops.tar")
	if err := s.Get(ctx, cluster.Head, laptopsTar, local); err != nil {
		return err
	}
	return tar(ctx, "-xf", local, "-C", s.dir)
}

// Close ends the site and throws it away.
func (s *Site) Close() error { return errors.Join(s.Cluster.Close(), os.RemoveAll(s.dir)) }

// A laptop is where a researcher works: a machine that reaches the cluster's
// network, with files that nobody else reads.
type laptop struct {
	bin, netns string
	home       string // CLOISTER_HOME
	dir        string // working directory
}

// Laptop runs the cloister command on a researcher's laptop, in its directory,
// and returns what it printed on standard output.
func (s *Site) Laptop(ctx context.Context, who string, args ...string) (string, error) {
	l := laptop{bin: s.bin, netns: s.Netns(), home: s.Home(who), dir: s.LaptopDir(who)}
	return l.run(ctx, args...)
}

// LaptopDir is the working directory on a researcher's laptop.
func (s *Site) LaptopDir(who string) string {
	dir := filepath.Join(s.dir, "work-"+who)
	_ = os.MkdirAll(dir, 0o700)
	return dir
}

// SigningKey is where a researcher's signing key lies on her laptop.
func (s *Site) SigningKey(who string) string { return filepath.Join(s.Home(who), "signing_key") }

// Identity is where the test host keeps a copy of a secure node's identity. An
// attack by a job's owner, who knows what she sealed, reads her job with it.
func (s *Site) Identity(node string) string { return filepath.Join(s.dir, "identity-"+node) }

// Home is CLOISTER_HOME on a researcher's laptop.
func (s *Site) Home(who string) string { return filepath.Join(s.dir, who) }

// A LaptopError is a command's failure with what it wrote for the researcher.
type LaptopError struct {
	Args   []string
	Exit   int
	Stderr string
}

func (e *LaptopError) Error() string {
	return fmt.Sprintf("cloister %s: exit status %d: %s", strings.Join(e.Args, " "), e.Exit, strings.TrimSpace(e.Stderr))
}

func (l laptop) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.netns, filepath.Join(l.bin, "cloister")}, args...)...)
	cmd.Dir = l.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "CLOISTER_HOME=" + l.home}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = &LaptopError{args, exit.ExitCode(), errs.String()}
	}
	return out.String(), err
}

func tar(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "tar", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}
