package noded

import (
	"context"
	"sync"
	"time"

	"cloister/noded/cgroup"
	"cloister/noded/fuse"
	"cloister/noded/lockdown"

	"go.uber.org/zap"
)

// killGrace is how long processes that were killed may take to end before it is
// looked for what holds them.
const killGrace = 5 * time.Second

// endProcesses ends a job's processes, those too that wait for a FUSE server
// among themselves, from which no kill frees them.
func (d *Daemon) endProcesses(ctx context.Context, job cgroup.Job) error {
	grace, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	err := job.Kill(grace)
	if err == nil || grace.Err() == nil {
		return err
	}
	d.cutOff(job)
	return job.Kill(ctx)
}

// cutOff aborts the FUSE connections that the job alone sees.
func (d *Daemon) cutOff(job cgroup.Job) {
	aborted, err := fuse.AbortAll(job.Path())
	if err != nil {
		d.log.Warn("processes of the job do not end", zap.Uint32("job", job.ID), zap.Error(err))
	}
	if len(aborted) > 0 {
		d.log.Info("cut the job's processes off from FUSE file systems of their own", zap.Uint32("job", job.ID), zap.Strings("connections", aborted))
	}
}

// freePeople has processes of people end that were killed and wait for a FUSE
// server among themselves, until it is stopped: for while the node is locked, when
// all of people's processes are to end.
func (d *Daemon) freePeople(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(killGrace):
			}
			aborted, err := fuse.AbortPeoples(lockdown.IsPerson)
			if err != nil {
				d.log.Warn("processes from before the session do not end", zap.Error(err))
			}
			if len(aborted) > 0 {
				d.log.Info("cut people's processes off from FUSE file systems of their own", zap.Strings("connections", aborted))
			}
		}
	})
	return func() { // when it returns, what is mounted from then on is safe
		cancel()
		done.Wait()
	}
}

// watchStuck frees processes that Slurm has killed and waits for: it tells noded
// of the job's end, and drains the node in the end, only when they are gone. It
// returns when ctx ends.
func (d *Daemon) watchStuck(ctx context.Context, job cgroup.Job) {
	var since time.Time
	for {
		stuck, err := job.Stuck()
		switch {
		case err != nil:
			d.log.Debug("looking for processes that do not end", zap.Uint32("job", job.ID), zap.Error(err))
		case !stuck:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= killGrace:
			d.cutOff(job)
			since = time.Time{}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(killGrace / 2):
		}
	}
}
