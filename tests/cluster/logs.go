package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Console returns what a node wrote to its serial console in this cluster, over all its boots.
func (c *Cluster) Console(node string) string {
	g, err := c.guest(node)
	if err != nil {
		return ""
	}
	b, _ := os.ReadFile(g.console()) // none before the first boot
	return string(b)
}

// KeepLogs writes each node's console, journal and Slurm logs to dir/NODE.*. A node that does not answer
// leaves its console and an error.
func (c *Cluster) KeepLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep logs: %w", err)
	}
	return c.each(func(g *node) error {
		name := g.spec.Name
		errs := []error{os.WriteFile(filepath.Join(dir, name+".console"), []byte(c.Console(name)), 0o644)}
		for _, l := range []struct{ ext, script string }{
			{"journal", "journalctl -b --no-pager -o short-precise"},
			{"slurm", "tail -n +1 /var/log/slurm/*.log 2>/dev/null; true"},
			{"state", "systemctl --failed --no-pager; ps axfww; cat /proc/mounts; nft list ruleset; ss -antup; free -m; " +
				"if [ $(hostname) = head ]; then timeout 20 scontrol show job; timeout 20 scontrol show node; fi; true"},
		} {
			r, err := c.Run(ctx, name, l.script, Timeout(time.Minute))
			errs = append(errs, err)
			if err == nil {
				errs = append(errs, os.WriteFile(filepath.Join(dir, name+"."+l.ext), []byte(r.Stdout+r.Stderr), 0o644))
			}
		}
		return errors.Join(errs...)
	})
}

// Capture records all traffic on the cluster's bridge to a pcap file until stop is called. A packet that was
// missed is stop's error.
func (c *Cluster) Capture(ctx context.Context, path string) (stop func() error, err error) {
	if err := needPrograms("tcpdump"); err != nil {
		return nil, err
	}
	// -U and immediate mode: packets reach the file at once, not when a buffer is full or a second old. -Z root: tcpdump's own user could not write there.
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", c.boot.ns, "tcpdump", "-i", "br0", "-s", "0", "-B", "65536", "-U", "--immediate-mode", "-Z", "root", "-w", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := filepath.Join(c.dir, "tcpdump."+randomID()[:6])
	f, err := os.Create(said)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	defer f.Close()
	cmd.Stderr = f
	if err := startOnKeptThread(cmd); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	for range 500 { // the file's header is written once tcpdump listens
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			return func() error {
				time.Sleep(200 * time.Millisecond) // for what the kernel's ring still holds
				cmd.Process.Signal(syscall.SIGINT)
				if err := cmd.Wait(); err != nil {
					return fmt.Errorf("capture: tcpdump: %w", err)
				}
				b, err := os.ReadFile(said)
				if err == nil && !strings.Contains(string(b), "\n0 packets dropped by kernel") {
					err = fmt.Errorf("capture: %s", tail(string(b), 3))
				}
				return err
			}, nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			break
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	b, _ := os.ReadFile(said)
	return nil, fmt.Errorf("capture: tcpdump wrote nothing: %s", tail(string(b), 5))
}
