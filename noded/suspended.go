package noded

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// suspendedReason is Slurm's reason for a node whose secure job is suspended.
const suspendedReason = drainMark + "its secure job is suspended, and the node locked until that ends"

// suspendedPause is the time between two looks at whether the job is suspended,
// of which nobody tells noded.
var suspendedPause = 2 * time.Second

// watchSuspended keeps Slurm from giving the node to other jobs while the
// session's own is suspended. Its processes stand still then, its volumes are
// open and the node is locked, but Slurm counts its cores as free, and each job
// that it starts here would be refused. It returns when ctx ends.
func (d *Daemon) watchSuspended(ctx context.Context, l *live) {
	seen := l.heldBack.Load()
	for {
		suspended, err := d.suspended(ctx, l)
		if err != nil {
			d.log.Debug("asking whether the job is suspended", zap.Uint32("job", l.slurmJob), zap.Error(err))
		} else if suspended != seen {
			if err := d.holdBack(ctx, l, suspended); err != nil {
				d.log.Warn("keeping other jobs from a node whose secure job is suspended, to be tried again", zap.Uint32("job", l.slurmJob), zap.Error(err))
			} else {
				seen = suspended
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(suspendedPause):
		}
	}
}

// suspended asks Slurm of a job that stands still: its user can stop it too
// (scancel --signal=STOP), and then Slurm gives its cores to nobody.
func (d *Daemon) suspended(ctx context.Context, l *live) (bool, error) {
	if frozen, err := l.record.Cgroup.Frozen(); err != nil || !frozen {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, slurmLimit)
	defer cancel()
	j, err := d.slurm.Job(ctx, l.slurmJob)
	return j.State == "SUSPENDED", err
}

// holdBack drains the node while its job is suspended and takes that back
// after it. What somebody else drained is left as it is.
func (d *Daemon) holdBack(ctx context.Context, l *live, suspended bool) error {
	ctx, cancel := context.WithTimeout(ctx, slurmLimit)
	defer cancel()
	if suspended {
		l.heldBack.Store(true) // also when nobody hears whether it was done
		drained, err := d.slurm.DrainUndrained(ctx, suspendedReason)
		if err == nil {
			d.log.Warn("Slurm has suspended the secure job: the node stays locked, and takes no other", zap.Uint32("job", l.slurmJob))
			l.heldBack.Store(drained)
		}
		return err
	}
	if !l.heldBack.Load() {
		return nil
	}
	_, _, err := d.slurm.Resume(ctx, suspendedReason)
	if err == nil {
		l.heldBack.Store(false)
	}
	return err
}

// takeBack has Slurm use the node again that was held back, or goes on trying
// to for as long as this noded lives.
func (d *Daemon) takeBack(ctx context.Context, l *live) {
	if d.takeBackOnce(ctx, l) {
		return
	}
	go func() {
		for pause := drainPause; ; pause = min(2*pause, drainPauseMax) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if d.takeBackOnce(ctx, l) {
				return
			}
		}
	}()
}

// takeBackOnce reports whether there is nothing left to do.
func (d *Daemon) takeBackOnce(ctx context.Context, l *live) bool {
	if l.heldBack.Load() && d.heldByOthers(l) {
		return true
	}
	err := d.holdBack(ctx, l, false)
	if err != nil {
		d.log.Error("the node stays drained, for a job that was suspended and has ended, to be tried again", zap.Uint32("job", l.slurmJob), zap.Error(err))
	}
	return err == nil
}

// heldByOthers: the node is drained for another reason by now, whose own end
// takes that back. It was given up, or the job of a newer session is suspended.
func (d *Daemon) heldByOthers(l *live) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fenced != nil || d.busy != nil && d.busy != l && d.busy.heldBack.Load()
}
