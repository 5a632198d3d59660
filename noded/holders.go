package noded

import (
	"context"
	"sync"

	"cloister/noded/unlock"
	"cloister/sealed"
	"cloister/volume"

	"go.uber.org/zap"
)

// holder is what other nodes and the owner's laptop are told of a volume that
// this session has open for writing.
func (d *Daemon) holder(l *live) volume.Holder {
	return volume.Holder{Node: d.node, Job: l.slurmJob, Since: l.record.Started}
}

// hold keeps the files of the volumes that were opened for writing, to take the
// notes on them back in the end. A noded that was restarted meanwhile has none:
// then the notes stay, without a lock, which is as good as no note.
func (d *Daemon) hold(l *live, a *admission, opened []*unlock.Opened) {
	for i, v := range a.manifest.Volumes {
		if opened[i] == nil || v.Mode == sealed.ReadOnly {
			continue
		}
		h, err := unlock.Hold(a.volumes[i], d.holder(l), a.rights())
		if err != nil {
			d.log.Warn("the note of who holds a volume will stay on it", zap.Error(err))
			continue
		}
		l.held = append(l.held, h)
	}
}

// releaseHeld is for after the volumes were closed.
func (d *Daemon) releaseHeld(ctx context.Context, l *live) {
	var all sync.WaitGroup
	for _, h := range l.held {
		all.Go(func() {
			if err := h.Release(ctx); err != nil {
				d.log.Warn("the note of who holds a volume stays on it", zap.Error(err))
			}
		})
	}
	all.Wait()
	l.held = nil
}
