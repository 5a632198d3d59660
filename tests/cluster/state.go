package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A saved state is a directory with three files for each guest: NAME.qcow2, a disk on top of the state's
// parent; NAME.ram, its memory; NAME.dev, the state of CPU and devices. A cluster that goes on from it maps
// the memory privately, so that starting copies nothing and pages that are not written are shared
// between all clusters on the host. The disk is the read-only base of a thin overlay.

// stateVersion changes when what is saved changes in a way that no other part of the key shows.
const stateVersion = "1"

// host is what all clusters of one call stand on.
type host struct {
	img   *entry
	accel string
	opts  Options
}

func (h host) boot() boot {
	return boot{accel: h.accel, vmlinuz: h.img.file("vmlinuz"), initrd: h.img.file("initrd.gz")}
}

// savedState returns the state to go on from, and makes it, and the one that it derives from, if need be.
func (h host) savedState(ctx context.Context) ([]*entry, error) {
	id, err := h.img.id()
	if err != nil {
		return nil, err
	}
	qemu, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask QEMU's version: %w", err)
	}
	told := []string{stateVersion, id, string(qemu), h.accel, fmt.Sprint(specs)}
	for i, s := range specs {
		told = append(told, (&node{spec: s, number: i}).args(boot{accel: h.accel})...)
	}
	key := hash(told...)
	base, err := cached(ctx, "base", key, h.makeBase)
	if err != nil {
		return nil, err
	}
	if h.opts.Prepare == nil {
		return []*entry{base}, nil
	}
	if id, err = base.id(); err != nil {
		base.release()
		return nil, err
	}
	prepared, err := cached(ctx, "prepared", hash(id, h.opts.PrepareKey), func(ctx context.Context, dir string) error {
		return h.makePrepared(ctx, base, dir)
	})
	if err != nil {
		base.release()
		return nil, err
	}
	return []*entry{prepared, base}, nil
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])[:16]
}

// makeBase boots a bare cluster and saves it in dir.
func (h host) makeBase(ctx context.Context, dir string) error {
	began := time.Now()
	h.opts.log("no saved state: booting five guests (%s)", h.accel)
	c, err := h.bootAll(ctx, dir, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	h.opts.log("booted in %.1f s", time.Since(began).Seconds())
	return c.save(ctx, dir)
}

// cold boots a bare cluster that nobody will save.
func (h host) cold(ctx context.Context) (*Cluster, error) {
	return h.bootAll(ctx, "", []*entry{h.img})
}

// bootAll boots all guests from the image and waits for idle nodes. With a directory, memory is in files there.
func (h host) bootAll(ctx context.Context, ramDir string, entries []*entry) (*Cluster, error) {
	b := h.boot()
	b.ram, b.shareRAM = ramDir, ramDir != ""
	c, err := newCluster(ctx, b, entries)
	if err == nil {
		err = c.each(func(g *node) error {
			if err := g.makeOverlay(ctx, h.img.file("root.img"), "raw"); err != nil {
				return err
			}
			return c.Boot(ctx, g.spec.Name)
		})
	}
	if err == nil {
		err = c.WaitIdle(ctx)
	}
	if err == nil {
		err = c.each(func(g *node) error { return c.waitSlurm(ctx, g.spec.Name) })
	}
	if err == nil {
		err = c.keepPace(ctx, h.opts.log)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("boot the cluster: %w", err)
	}
	return c, nil
}

// makePrepared goes on from the base state with memory of its own, prepares the cluster and saves it.
func (h host) makePrepared(ctx context.Context, base *entry, dir string) error {
	began := time.Now()
	h.opts.log("preparing the cluster")
	args := []string{"--sparse=always", "--reflink=auto"}
	for _, s := range specs {
		args = append(args, base.file(s.Name+".ram"))
	}
	if err := command(ctx, "", "cp", append(args, dir)...); err != nil {
		return err
	}
	c, err := h.resume(ctx, []*entry{{dir: base.dir}}, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := h.opts.Prepare(ctx, c); err != nil {
		return fmt.Errorf("prepare the cluster: %w", err)
	}
	if err := c.WaitIdle(ctx); err != nil {
		return err
	}
	if err := c.save(ctx, dir); err != nil {
		return err
	}
	h.opts.log("prepared in %.1f s", time.Since(began).Seconds())
	return nil
}

// resume starts a cluster from the first of the entries. With a ramDir, its memory is written to the files there.
func (h host) resume(ctx context.Context, saved []*entry, ramDir string) (*Cluster, error) {
	b := h.boot()
	b.incoming = true
	from := saved[0]
	b.ram, b.shareRAM = from.dir, false
	if ramDir != "" {
		b.ram, b.shareRAM = ramDir, true
	}
	entries := saved
	if ramDir == "" {
		entries = append(entries, h.img)
	} else {
		entries = nil // the caller holds them
	}
	c, err := newCluster(ctx, b, entries)
	if err == nil {
		err = c.each(func(g *node) error { return c.load(ctx, g, from) })
	}
	if err == nil { // none before all are loaded: they talk to each other
		err = c.proceed(ctx)
	}
	if err == nil {
		err = c.WaitIdle(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("resume the cluster: %w", err)
	}
	return c, nil
}

// load starts a guest's QEMU with a saved state in it, still stopped.
func (c *Cluster) load(ctx context.Context, g *node, from *entry) error {
	if err := g.makeOverlay(ctx, from.file(g.spec.Name+".qcow2"), "qcow2"); err != nil {
		return err
	}
	b := c.boot
	b.ram = filepath.Join(b.ram, g.spec.Name+".ram")
	if err := g.start(ctx, b); err != nil {
		return err
	}
	return g.monitor(ctx, func(m *monitor) error {
		if err := m.shareRAM(); err != nil {
			return err
		}
		if _, err := m.do("migrate-incoming", map[string]any{"uri": "exec:cat " + from.file(g.spec.Name+".dev")}); err != nil {
			return err
		}
		return m.migrated(ctx)
	})
}

// proceed lets guests that were saved go on, with the host's time. The head is the last: slurmctld pings all nodes as
// soon as its clock leaps, and takes one whose clock is still that of its saving for down.
func (c *Cluster) proceed(ctx context.Context) error {
	wake := func(g *node) error {
		if err := g.monitor(ctx, func(m *monitor) error { _, err := m.do("cont", nil); return err }); err != nil {
			return err
		}
		if err := g.agent.ready(ctx); err != nil {
			return err
		}
		return c.setClock(ctx, g)
	}
	if err := c.each(func(g *node) error {
		if g.spec.Name == Head {
			return nil
		}
		return wake(g)
	}); err != nil {
		return err
	}
	head, err := c.guest(Head)
	if err != nil {
		return err
	}
	return wake(head)
}

// monitor lends a connection to QEMU, and prefers QEMU's own last words to the connection's error.
func (n *node) monitor(ctx context.Context, use func(m *monitor) error) error {
	m, err := openMonitor(ctx, n.qmp())
	if err == nil {
		defer m.close()
		err = use(m)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", n.spec.Name, errors.Join(err, n.alive()))
}

// save stops all guests at one moment, writes their states to dir and ends them.
func (c *Cluster) save(ctx context.Context, dir string) error {
	if err := c.each(func(g *node) error {
		_, err := c.Output(ctx, g.spec.Name, "sync")
		g.agent.close()
		return err
	}); err != nil {
		return err
	}
	if err := c.each(func(g *node) error {
		return g.monitor(ctx, func(m *monitor) error { _, err := m.do("stop", nil); return err })
	}); err != nil {
		return err
	}
	return c.each(func(g *node) error {
		err := g.monitor(ctx, func(m *monitor) error {
			if err := m.shareRAM(); err != nil {
				return err
			}
			if _, err := m.do("migrate", map[string]any{"uri": "exec:cat > " + filepath.Join(dir, g.spec.Name+".dev")}); err != nil {
				return err
			}
			if err := m.migrated(ctx); err != nil {
				return err
			}
			_, err := m.do("quit", nil)
			return err
		})
		if err != nil {
			return err
		}
		<-g.done
		return os.Rename(g.overlay(), filepath.Join(dir, g.spec.Name+".qcow2"))
	})
}
