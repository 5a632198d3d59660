package noded

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cloister/noded/audit"
	"cloister/noded/lockdown"
	"cloister/noded/session"
	"cloister/sealed"

	"go.uber.org/zap"
)

// The watches over a locked node, by the names under which they are kept.
const (
	watchFilter    = "the packet filter"
	watchDoors     = "the doors"
	watchStrangers = "the processes"
	watchMemory    = "swap and core dumps"
)

// A watcher runs until its context ends. Its error means that it can no longer
// watch.
type watcher func(ctx context.Context) error

// A running watch is ended by calling it; it returns when the watcher has.
type running func()

// watch starts a watcher unless one runs, and reports whether it did.
func (d *Daemon) watch(ctx context.Context, name string, w watcher) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watches[name] != nil {
		return false
	}
	// The watch must outlive the launch that began it.
	watched, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	d.watches[name] = func() { cancel(); <-done }
	loop, end := d.pulse.Begin(watched, "the watch over "+name, watchLimit)
	go func() {
		err := w(loop)
		end()
		// Before the loss is dealt with: ending the session ends watches.
		close(done)
		if err != nil && watched.Err() == nil {
			d.lost(name, err)
		}
	}()
	return true
}

func (d *Daemon) watching(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.watches[name] != nil
}

// unwatch ends watches; one that does not run is no error.
func (d *Daemon) unwatch(names ...string) {
	for _, name := range names {
		d.mu.Lock()
		end := d.watches[name]
		delete(d.watches, name)
		d.mu.Unlock()
		if end != nil {
			end()
		}
	}
}

// lost is for a node that can no longer be kept locked: no session may go on
// there and none may begin.
func (d *Daemon) lost(name string, err error) {
	err = fmt.Errorf("%s can no longer be watched: %w", name, err)
	d.unwatch(name)
	d.noteIncident(audit.WatchLost, d.present(), err.Error())
	d.endSession(err)
	d.giveUp("the node cannot be kept locked", err)
}

// endSession ends the session that runs or begins, if there is one. Its own
// goroutine undoes it.
func (d *Daemon) endSession(why error) {
	d.mu.Lock()
	l := d.busy
	d.mu.Unlock()
	if l == nil {
		return
	}
	d.log.Error("ending the session", zap.Uint32("job", l.slurmJob), zap.Error(why))
	l.end(why)
}

// watchClosed keeps the doors closed that are, over a connection that is there
// or one of its own. It reports whether it took the connection.
func (d *Daemon) watchClosed(ctx context.Context, reached *lockdown.Reached) bool {
	return d.watch(ctx, watchDoors, func(ctx context.Context) error {
		report := d.incidents(audit.DoorOpened)
		if reached != nil {
			return reached.Watch(ctx, report)
		}
		return d.doors.Watch(ctx, report)
	})
}

// watchLocked starts all that keeps a node locked beside the packet filter's
// own watch. Call it when the doors are closed and a session that goes on is
// known: the processes of another are ended. reached is as in watchClosed.
func (d *Daemon) watchLocked(ctx context.Context, reached *lockdown.Reached) (took bool) {
	took = d.watchClosed(ctx, reached)
	strangers := lockdown.Strangers{Keep: d.groups}
	d.watch(ctx, watchStrangers, func(ctx context.Context) error {
		return strangers.Watch(ctx, d.incidents(audit.Stranger))
	})
	if d.memory != nil {
		d.watch(ctx, watchMemory, func(ctx context.Context) error {
			said := ""
			return d.memory(ctx, func(fault string) { // says so for as long as it is so
				if fault != said {
					d.incidents(audit.MemoryExposed)(fault)
					said = fault
				}
				d.endSession(errors.New(fault))
			})
		})
	}
	return took
}

// unwatchLocked is its way back, to be called before the doors are opened.
func (d *Daemon) unwatchLocked() { d.unwatch(watchDoors, watchStrangers, watchMemory) }

// groups are the control groups whose processes belong on a locked node: the
// job's, noded's own, whose helpers take the user's rights, and those of jobs
// for which the node was given up: what no kill ends is no stranger.
func (d *Daemon) groups() []string {
	groups := []string{lockdown.OwnGroup()}
	d.mu.Lock()
	if d.busy != nil && d.busy.record != nil {
		groups = append(groups, d.busy.record.Cgroup.Path())
	}
	fenced := d.fenced != nil
	d.mu.Unlock()
	if !fenced {
		return groups
	}
	// A journal that cannot be read keeps nobody's processes, as holdUnknown says.
	left, _ := d.journal.Load()
	for _, r := range left {
		groups = append(groups, r.Cgroup.Path())
	}
	return groups
}

// begin gives a session its record, from which the watches know its processes,
// and says which of the job's runs it is.
func (d *Daemon) begin(l *live, run sealed.Run, r *session.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.run, l.record = run, r
}

// begun is a session's record, nil before it begins, and its run: for a launch
// that is not the session's own.
func (d *Daemon) begun(l *live) (*session.Record, sealed.Run) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return l.record, l.run
}

// newLive is a session of a Slurm job.
func newLive(job uint32) *live {
	return &live{slurmJob: job, since: time.Now().UTC(), run: onlyRun, stopped: make(chan struct{})}
}

// end has the session ended, once; the first reason counts.
func (l *live) end(why error) {
	l.stop.Do(func() {
		l.why = why
		close(l.stopped)
	})
}

// killLimit bounds the first killing of a session's processes, and the time
// that slurmstepd has to notice. What is left then the undo ends.
const killLimit = 5 * time.Second

// awaitEnd waits for the end of a session's job, or ends it.
func (d *Daemon) awaitEnd(l *live, ended <-chan outcome) outcome {
	watched, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { d.watchSuspended(watched, l) })
	watch.Go(func() { d.watchStuck(watched, l.record.Cgroup) })
	defer watch.Wait()
	defer stop()
	select {
	case o := <-ended:
		return o
	case <-l.stopped:
	}
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if err := l.record.Cgroup.Kill(ctx); err != nil {
		d.log.Warn("ending the processes of a session", zap.Error(err))
	}
	select {
	case o := <-ended:
		return o
	case <-ctx.Done():
		return outcome{err: l.why}
	}
}
