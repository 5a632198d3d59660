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
		frozen, err := l.record.Cgroup.Frozen()
		if err != nil {
			d.log.Debug("asking whether the job is suspended", zap.Uint32("job", l.slurmJob), zap.Error(err))
		} else if frozen != seen {
			if err := d.holdBack(ctx, l, frozen); err != nil {
				d.log.Warn("keeping other jobs from a node whose secure job is suspended, to be tried again", zap.Uint32("job", l.slurmJob), zap.Error(err))
			} else {
				seen = frozen
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(suspendedPause):
		}
	}
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
