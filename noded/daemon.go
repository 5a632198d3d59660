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

	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/helper"
	"cloister/noded/lockdown"
	"cloister/noded/pulse"
	"cloister/noded/redeem"
	"cloister/noded/replay"
	"cloister/noded/session"
	"cloister/noded/status"
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
	// Records keeps what was decided and done. A node that cannot record an
	// admission runs no job. Version is noded's own, for the status.
	Records *audit.Log
	Version string
	// Systemd keeps descriptors across restarts and shows the status.
	Systemd Systemd
	Slurm   Slurm
}

// Slurm is what noded asks of the cluster.
type Slurm interface {
	// Drain takes the node out of service.
	Drain(ctx context.Context, reason string) error
	// DrainUndrained does so unless the node is drained already, and reports
	// whether it did.
	DrainUndrained(ctx context.Context, reason string) (drained bool, err error)
	// Resume takes a node back into service whose reason for being drained
	// begins with mark. For any other one it does nothing and says the reason,
	// "" for a node that is not drained.
	Resume(ctx context.Context, mark string) (resumed bool, reason string, err error)
	// Cancel ends a job that runs on this node.
	Cancel(ctx context.Context, job uint32) error
	// Job tells what slurmctld knows of a job that is on this node.
	Job(ctx context.Context, job uint32) (SlurmJob, error)
}

// A SlurmJob is a job as slurmctld has it.
type SlurmJob struct {
	Restarts uint32 // how often it was requeued
	State    string // as squeue(1) names it: "RUNNING"
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
	records    *audit.Log
	version    string
	started    time.Time
	pulse      pulse.Monitor
	systemd    Systemd
	slurm      Slurm
	lock       lockdown.Lock
	filter     lockdown.Filter
	doors      lockdown.Doors
	adopted    sync.WaitGroup
	opening    sync.WaitGroup // doors that were opened and whose units start
	// recovering is closed once Recover knows of every session that was left; nil
	// before Start.
	recovering chan struct{}

	mu sync.Mutex
	// busy is what the node is taken by: a session, from its first look at
	// the script to the end of its undo.
	busy *live
	// fenced says why the node was given up, nil if it was not.
	fenced *status.Fence
	passed passed
	// watches end the watchers that run.
	watches map[string]running
}

// New makes a daemon. It does not touch the node before Start.
func New(c Config) *Daemon {
	return &Daemon{policy: c.Policy, identities: c.Identities, kms: c.KMS, node: c.Node, check: c.Check, memory: c.Memory, journal: c.Journal,
		replay: c.Replay, runDir: c.RunDir, log: c.Log, records: c.Records, version: c.Version, started: time.Now().UTC(), systemd: c.Systemd, slurm: c.Slurm, lock: lockdown.FromPolicy(c.Policy), doors: lockdown.DoorsFromPolicy(c.Policy), passed: passed{}, watches: map[string]running{}}
}

// startLimit bounds what a start asks of the bus, below the unit's
// TimeoutStartSec=. A variable for tests.
var startLimit = 40 * time.Second

// startPause is the time between two tries of that.
const startPause = time.Second

// Start brings the node to where it must be before slurmd and sshd start: a
// dedicated node locked. One that cannot be is given up, for a noded that ended
// here would neither adopt nor undo what its predecessor left, nor tell Slurm.
func (d *Daemon) Start(ctx context.Context) error {
	d.note(audit.Entry{Event: audit.NodeStarted, Detail: fmt.Sprintf("version %s, %s", d.version, d.policy.Class)})
	d.recovering = make(chan struct{})
	d.loadFence()
	if n, err := d.replay.Purge(time.Now()); err != nil { // a disk that does not take the next job's mark refuses the job
		d.log.Error("jobs that expired are not forgotten", zap.Error(err))
	} else if n > 0 {
		d.log.Info("forgot jobs that expired", zap.Int("count", n))
	}
	for _, f := range d.check() {
		d.log.Error("this node is not what a secure node must be, sealed jobs are refused", zap.String("fault", f))
	}
	if d.dedicated() {
		err := d.lockInTime(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			if f := d.outOfService("a dedicated node could not be locked", err); f != nil {
				go d.drain(f) // Slurm need not be up before noded
			}
		}
		return nil
	}
	// So that the first session need not: systemd reads all of its units anew. A
	// session whose doors are not guarded tries again, and is refused if it can't.
	bus, done := context.WithTimeout(ctx, startLimit)
	defer done()
	if err := d.doors.Prepare(bus); err != nil {
		d.log.Error("the doors are not prepared", zap.Error(err))
	}
	return nil
}

func (d *Daemon) dedicated() bool { return d.policy.Class == policy.Dedicated }

// lockInTime locks a dedicated node within startLimit: a bus that starts anew is
// away for a moment.
func (d *Daemon) lockInTime(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, startLimit)
	defer done()
	for {
		err := d.lockForGood(ctx, d.lockAtStart())
		if err == nil {
			return nil
		}
		d.log.Warn("locking a dedicated node, to be tried again", zap.Error(err))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(startPause):
		}
	}
}

// lockAtStart lets nobody on a login node reach a job that may run, until
// Recover has seen what a predecessor left.
func (d *Daemon) lockAtStart() lockdown.Lock {
	if left, err := d.journal.Load(); err != nil || len(left) > 0 {
		return d.lock.InSession()
	}
	return d.lock
}

// lockForGood locks a dedicated node. What it finds before is of no interest:
// it is never opened again but by a boot without Cloister, or with a policy that
// makes it an on-demand one.
func (d *Daemon) lockForGood(ctx context.Context, lock lockdown.Lock) error {
	if err := d.lockNetwork(ctx, lock); err != nil {
		return err
	}
	bus, done := context.WithTimeout(ctx, startLimit)
	defer done()
	if err := d.doors.Prepare(bus); err != nil {
		return err
	}
	if err := d.doors.Close(bus); err != nil {
		return err
	}
	d.watchClosed(ctx, nil)
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
		return d.filter.Watch(ctx, lock, d.incidents(audit.RulesChanged))
	})
	return nil
}

// openNetwork takes the packet filter away. It is safe to call twice.
func (d *Daemon) openNetwork(ctx context.Context) error {
	d.unwatch(watchFilter)
	return d.filter.Release(ctx)
}

// spareHelpers are started ahead, and again when one is taken. An idle one takes
// 2.3 MB, and noded with them may have 30.
const spareHelpers = 4

// Serve answers launches until ctx ends. A running session goes on without
// the daemon: its descriptors are in systemd's store.
func (d *Daemon) Serve(ctx context.Context, s *handoff.Server) error {
	d.status()
	helper.Keep(spareHelpers)
	go d.watchRecords(ctx)
	defer d.note(audit.Entry{Event: audit.NodeStopped})
	defer d.adopted.Wait()
	loop, end := d.pulse.Begin(ctx, "the taking of launches", acceptLimit)
	defer end()
	return s.Serve(loop, d.launch)
}

func (d *Daemon) status() {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := "idle"
	switch {
	case d.fenced != nil:
		text = "fenced: " + d.fenced.Reason + " (cloister node status)"
	case d.busy != nil:
		text = fmt.Sprintf("secure job %d", d.busy.slurmJob)
	case d.dedicated():
		text = "locked, waiting for sealed jobs"
	}
	d.systemd.Status(text)
}
