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
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var last string
	for {
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
		if serr := sleep(ctx, 200*time.Millisecond); serr != nil {
			return fmt.Errorf("wait for idle nodes %v: %w (last seen: %q, %v)", nodes, serr, last, err)
		}
	}
}

// waitSlurm waits until a rebooted node has started its units and, for one of Slurm's, registered anew: before
// that slurmctld still shows what it knew of the node's earlier life.
func (c *Cluster) waitSlurm(ctx context.Context, node string) error {
	if _, err := c.Output(ctx, node, "systemctl is-system-running --wait; true"); err != nil {
		return err
	}
	switch {
	case node == Head:
		return c.WaitIdle(ctx)
	case !slices.Contains(slurmNodes(), node):
		_, err := c.Output(ctx, node, "mountpoint -q /shared")
		return err
	}
	out, err := c.Output(ctx, node, "awk '/^btime/{print $2}' /proc/stat")
	if err != nil {
		return err
	}
	_ = out
	return c.WaitIdle(ctx, node)
}

// setClocks gives the guests the host's time. A guest that was saved goes on with the time of its saving.
func (c *Cluster) setClocks(ctx context.Context) error {
	return c.each(func(g *node) error {
		now := time.Now()
		_, err := c.Output(ctx, g.spec.Name, fmt.Sprintf("date -u -s @%d.%03d >/dev/null", now.Unix(), now.Nanosecond()/1e6))
		return err
	})
}
