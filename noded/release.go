package noded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloister/noded/status"
)

// errReleased is why a session ends that Release ends.
var errReleased = errors.New("the node is being shut down, or its administrator ended the session")

const releasePoll = 50 * time.Millisecond

// Release ends the session that has the node, as it runs or begins, and waits
// until it is undone. That is for a shutdown: noded alone, when it is stopped,
// leaves a session to the next one.
func (d *Daemon) Release(ctx context.Context) *status.Recovery {
	r := new(retry)
	d.awaitRecovery(ctx)
	d.mu.Lock()
	l := d.busy
	d.mu.Unlock()
	if l == nil {
		r.line("looking for a session: none has the node", nil)
		r.Recovered = true
		return &r.Recovery
	}
	what := fmt.Sprintf("ending the session of job %d", l.slurmJob)
	d.endSession(errReleased)
	if err := d.awaitRelease(ctx, l); err != nil {
		r.line(what, err)
		return &r.Recovery
	}
	if f := d.givenUp(); f != nil {
		r.line(what, errors.New(f.Detail))
		r.Next = nextFenced
		return &r.Recovery
	}
	r.line(what, nil)
	r.Recovered = true
	return &r.Recovery
}

func (d *Daemon) awaitRelease(ctx context.Context, l *live) error {
	for {
		d.mu.Lock()
		over := d.busy != l
		d.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(releasePoll):
		}
	}
}
