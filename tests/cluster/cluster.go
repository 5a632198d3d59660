// Package cluster runs a small Slurm cluster of QEMU guests for tests: a head node with the file server, a
// login node, two nodes of a partition "secure" and an ordinary node, Debian trixie with its stock kernel.
//
// A cluster lives in a network namespace of its own that leads nowhere. It starts from a state saved in
// the cache, so each test can have a clean one; what a test changes is thrown away. Commands
// run through a virtio-serial port, so a node with its network locked still answers.
//
// It needs root on Linux, the programs of packages.txt, and Debian's package mirror once, for the image. It
// refuses to do anything to processes, namespaces or files that it did not make.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a guest may take to boot and Slurm to become idle. Two minutes are usual under
// emulation; on a host starved by other work ten were seen.
const patience = 15 * time.Minute

// Options say which cluster Start makes. The zero value is a bare one, from the saved state.
type Options struct {
	// Prepare makes the bare cluster into the wanted one, for example by installing the product. It runs once
	// for each PrepareKey; then all guests are saved, and later clusters go on from there.
	Prepare func(ctx context.Context, c *Cluster) error
	// PrepareKey must change whenever Prepare or anything that it installs does (a hash of the files).
	PrepareKey string
	// Cold boots the guests and saves nothing; Prepare runs every time.
	Cold bool
	// Log is told what takes long. Nil: nobody is.
	Log func(format string, args ...any)
}

func (o Options) log(format string, args ...any) {
	if o.Log != nil {
		o.Log(format, args...)
	}
}

// A Cluster is five running guests. Its methods may be called from several goroutines.
type Cluster struct {
	id, dir string
	boot    boot
	nodes   []*node
	lock    *fileLock // says that somebody owns the run directory
	entries []*entry  // what the overlays stand on

	mu       sync.Mutex
	transfer net.Listener
	waiting  map[string]func(net.Conn)
	closed   bool
}

// Start returns a running cluster with all Slurm nodes idle. The caller must Close it; should the process
// die instead, the kernel kills the guests, and the next Start removes what is left.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("start a cluster: network namespaces and taps need root")
	}
	if err := needPrograms("qemu-system-x86_64", "qemu-img", "ip", "cp"); err != nil {
		return nil, err
	}
	if opts.Prepare != nil && opts.PrepareKey == "" && !opts.Cold {
		return nil, errors.New("start a cluster: Prepare without a PrepareKey")
	}
	img, err := image(ctx)
	if err != nil {
		return nil, err
	}
	accel, err := accelerator(ctx, img)
	if err != nil {
		img.release()
		return nil, err
	}
	h := host{img, accel, opts}
	if opts.Cold {
		c, err := h.cold(ctx)
		if err != nil || opts.Prepare == nil {
			return c, err
		}
		if err := opts.Prepare(ctx, c); err != nil {
			c.Close()
			return nil, fmt.Errorf("prepare the cluster: %w", err)
		}
		return c, nil
	}
	saved, err := h.savedState(ctx)
	if err != nil {
		img.release()
		return nil, err
	}
	return h.resume(ctx, saved, "")
}

// runsDir is where clusters run: one directory each, with a lock that its owner holds.
func runsDir() (string, error) {
	root, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the run directory: %w", err)
	}
	return dir, nil
}

// newCluster makes the run directory and the network of a cluster, and no guests yet.
func newCluster(ctx context.Context, b boot, entries []*entry) (*Cluster, error) {
	c := &Cluster{boot: b, entries: entries, waiting: map[string]func(net.Conn){}}
	runs, err := runsDir()
	if err != nil {
		return c, err
	}
	all, err := lockExclusive(filepath.Join(runs, "lock"))
	if err != nil {
		return c, err
	}
	defer all.unlock()
	sweep(runs)
	c.id = randomID()[:8]
	dir := filepath.Join(runs, c.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return c, fmt.Errorf("make the run directory: %w", err)
	}
	c.dir = dir
	if c.lock, err = tryLock(filepath.Join(dir, "lock")); err != nil {
		return c, err
	}
	c.boot.ns = netnsPrefix + c.id
	c.addNodes()
	return c, makeNetwork(ctx, c.boot.ns)
}

func (c *Cluster) addNodes() {
	for i, s := range specs {
		c.nodes = append(c.nodes, &node{spec: s, number: i, dir: c.dir,
			agent: &agent{path: filepath.Join(c.dir, s.Name+".qga")}})
	}
}

func (c *Cluster) guest(name string) (*node, error) {
	for _, n := range c.nodes {
		if n.spec.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %q: there are %s", name, strings.Join(Nodes, ", "))
}

// Dir is the cluster's run directory: sockets, consoles, overlays. It goes with Close.
func (c *Cluster) Dir() string { return c.dir }

// Netns is the name of the cluster's network namespace, for "ip netns exec".
func (c *Cluster) Netns() string { return c.boot.ns }

// Overlay is the file that holds everything a node's disk got since the state that the cluster came from
// (qcow2; "qemu-img map -U --output=json" gives its extents). Guest memory is never in it.
func (c *Cluster) Overlay(node string) (string, error) {
	g, err := c.guest(node)
	if err != nil {
		return "", err
	}
	return g.overlay(), nil
}

// PowerCut ends a node as if its plug was pulled. What it had synced to its disk stays.
func (c *Cluster) PowerCut(node string) error {
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	g.kill()
	return nil
}

// AwaitOff waits until a node that shuts down, or reboots, has done so. A reboot
// ends there too: Boot and Restart bring the node back.
func (c *Cluster) AwaitOff(ctx context.Context, node string) error {
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	g.mu.Lock()
	done := g.done
	g.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to shut down: %w; its console ends:\n%s", node, ctx.Err(), tail(c.Console(node), 15))
	}
}

// Restart boots a node from its disk, after a power cut if it still runs, and returns when its own units have
// started and, for a node of Slurm, slurmctld shows it as idle.
func (c *Cluster) Restart(ctx context.Context, node string) error {
	if err := c.Boot(ctx, node); err != nil {
		return err
	}
	return c.waitSlurm(ctx, node)
}

// Boot is Restart that returns as soon as the node runs commands: for nodes that must not become idle.
func (c *Cluster) Boot(ctx context.Context, node string) error {
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	g.kill()
	b := c.boot
	b.incoming = false
	if !b.shareRAM {
		b.ram = "" // a file that is not written to is only good for going on from it
	} else {
		b.ram = filepath.Join(b.ram, g.spec.Name+".ram")
	}
	if err := g.start(ctx, b); err != nil {
		return err
	}
	return c.booted(ctx, g)
}

// booted waits for a guest's agent and sees to it that a dead QEMU does not keep the caller waiting.
func (c *Cluster) booted(ctx context.Context, g *node) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		select {
		case <-g.done:
			cancel()
		case <-ended:
		}
	}()
	err := g.agent.ready(ctx)
	close(ended)
	if dead := g.alive(); dead != nil {
		return dead
	}
	if err != nil {
		return fmt.Errorf("%s: %w; its console ends:\n%s", g.spec.Name, err, tail(c.Console(g.spec.Name), 15))
	}
	return nil
}

// each does something to all guests at once.
func (c *Cluster) each(do func(g *node) error) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, g := range c.nodes {
		wg.Add(1)
		go func() { defer wg.Done(); errs[i] = do(g) }()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close ends the guests and throws their state away. It may be called twice.
func (c *Cluster) Close() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	closed, transfer := c.closed, c.transfer
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	if transfer != nil {
		transfer.Close()
	}
	for _, g := range c.nodes {
		g.kill()
	}
	if c.boot.ns != "" {
		killInside(c.boot.ns) // tcpdump
		deleteNetwork(c.boot.ns)
	}
	var err error
	if c.dir != "" {
		err = os.RemoveAll(c.dir)
	}
	c.lock.unlock()
	for _, e := range c.entries {
		e.release()
	}
	if err != nil {
		return fmt.Errorf("remove the cluster's files: %w", err)
	}
	return nil
}

// killForeign kills a guest whose QEMU is not our child.
func killForeign(pidFile string) {
	pid, err := strconv.Atoi(strings.TrimSpace(pidFile))
	if err != nil {
		return
	}
	for syscall.Kill(pid, syscall.SIGKILL) == nil {
		time.Sleep(10 * time.Millisecond)
	}
}
