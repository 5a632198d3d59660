// Package noded is the node daemon: it takes launches from Slurm's plugin,
// admits sealed jobs, locks the node, opens volumes in a job view, and undoes
// it all when the job ends, however it ends.
//
// It serves one session at a time: a secure job has its node to itself. What
// it cannot verify it refuses; what it cannot undo leaves the node locked and
// drained. It decides nothing that package policy can decide on values.
package noded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cloister/noded/handoff"
	"cloister/noded/lockdown"
	"cloister/noded/redeem"
	"cloister/noded/replay"
	"cloister/noded/session"
	"cloister/policy"

	"filippo.io/age"
	"go.uber.org/zap"
)

// Config is what a Daemon is made from. Every field is needed.
type Config struct {
	Policy     *policy.Policy
	Identities []age.Identity
	KMS        *redeem.Client
	// Node is this node's Slurm name.
	Node string
	// Check says why this node may not serve at all (package nodecheck). It
	// is asked at each launch: swap can be switched on at any time.
	Check func() []string
	// Memory watches over what may not change while the node is locked, until
	// its context ends, and tells what is wrong: swap that was switched on.
	Memory  func(ctx context.Context, wrong func(fault string)) error
	Journal *session.Journal
	Replay  *replay.Store
	// RunDir is a directory on tmpfs, for root alone.
	RunDir string
	Log    *zap.Logger
	// Systemd keeps descriptors across restarts and shows the status.
	Systemd Systemd
	Slurm   Slurm
}

// Slurm is what noded asks of the cluster.
type Slurm interface {
	// Drain takes the node out of service.
	Drain(ctx context.Context, reason string) error
	// Cancel ends a job that runs on this node.
	Cancel(ctx context.Context, job uint32) error
	// Restarts tells how often a job was requeued.
	Restarts(ctx context.Context, job uint32) (uint32, error)
}

// A Daemon is one node's daemon.
type Daemon struct {
	policy     *policy.Policy
	identities []age.Identity
	kms        *redeem.Client
	node       string
	check      func() []string
	memory     func(context.Context, func(string)) error
	journal    *session.Journal
	replay     *replay.Store
	runDir     string
	log        *zap.Logger
	systemd    Systemd
	slurm      Slurm
	lock       lockdown.Lock
	filter     lockdown.Filter
	doors      lockdown.Doors
	adopted    sync.WaitGroup

	mu sync.Mutex
	// busy is what the node is taken by: a session, from its first look at
	// the script to the end of its undo.
	busy *live
	// fenced says why the node was given up, "" if it was not.
	fenced string
	// passed holds the slurmstepds of ordinary steps that were let through.
	passed map[int]uint32
	// watches end the watchers that run.
	watches map[string]running
}

// New makes a daemon. It does not touch the node before Start.
func New(c Config) *Daemon {
	return &Daemon{policy: c.Policy, identities: c.Identities, kms: c.KMS, node: c.Node, check: c.Check, memory: c.Memory, journal: c.Journal,
		replay: c.Replay, runDir: c.RunDir, log: c.Log, systemd: c.Systemd, slurm: c.Slurm, lock: lockdown.FromPolicy(c.Policy), doors: lockdown.DoorsFromPolicy(c.Policy), passed: map[int]uint32{}, watches: map[string]running{}}
}

// Start brings the node to where it must be before slurmd and sshd start: a
// dedicated node locked.
func (d *Daemon) Start(ctx context.Context) error {
	if n, err := d.replay.Purge(time.Now()); err != nil {
		return err
	} else if n > 0 {
		d.log.Info("forgot jobs that expired", zap.Int("count", n))
	}
	for _, f := range d.check() {
		d.log.Error("this node is not what a secure node must be, sealed jobs are refused", zap.String("fault", f))
	}
	if d.dedicated() {
		if err := d.lockForGood(ctx); err != nil {
			return fmt.Errorf("locking a dedicated node: %w", err)
		}
	}
	return nil
}

func (d *Daemon) dedicated() bool { return d.policy.Class == policy.Dedicated }

// lockForGood locks a dedicated node. What it finds before is of no interest:
// it is never opened again but by a boot without Cloister.
func (d *Daemon) lockForGood(ctx context.Context) error {
	if err := d.lockNetwork(ctx, d.lock); err != nil {
		return err
	}
	doors, err := d.doors.Survey(ctx)
	if err != nil {
		return err
	}
	if err := d.doors.Close(ctx, doors); err != nil {
		return err
	}
	d.watchClosed(ctx)
	return nil
}

// lockNetwork puts the packet filter in force, in place of another lock, and
// has it watched.
func (d *Daemon) lockNetwork(ctx context.Context, lock lockdown.Lock) error {
	d.unwatch(watchFilter)
	if err := d.filter.Apply(ctx, lock); err != nil {
		return err
	}
	d.watch(ctx, watchFilter, func(ctx context.Context) error {
		return d.filter.Watch(ctx, lock, d.incidents("the packet filter was changed and is put back"))
	})
	return nil
}

// openNetwork takes the packet filter away. It is safe to call twice.
func (d *Daemon) openNetwork(ctx context.Context) error {
	d.unwatch(watchFilter)
	return d.filter.Release(ctx)
}

// Serve answers launches until ctx ends. A running session goes on without
// the daemon: its descriptors are in systemd's store.
func (d *Daemon) Serve(ctx context.Context, s *handoff.Server) error {
	d.status()
	defer d.adopted.Wait()
	return s.Serve(ctx, d.launch)
}

func (d *Daemon) status() {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := "idle"
	switch {
	case d.fenced != "":
		text = "fenced: " + d.fenced
	case d.busy != nil:
		text = fmt.Sprintf("secure job %d", d.busy.slurmJob)
	}
	d.systemd.Status(text)
}
