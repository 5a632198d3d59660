package noded

import (
	"context"
	"slices"
	"sync"
	"time"

	"cloister/noded/session"

	"go.uber.org/zap/zapcore"
)

// laps are how long the parts of a session took, in the order in which they
// ended. They are in the log lines "started" and "released", in seconds.
type laps struct {
	mu   sync.Mutex
	last time.Time
	all  []lap
}

type lap struct {
	part string
	took time.Duration
}

// begin starts the clock of the next part, which began at t.
func (l *laps) begin(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = t
}

// end says what the time since begin, or since the last end, went into.
func (l *laps) end(part string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.all = append(l.all, lap{part, now.Sub(l.last)})
	l.last = now
}

// set adds a part that is within the one that ends next, which is counted
// without it.
func (l *laps) set(part string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, lap{part, took})
	l.last = l.last.Add(took)
}

// take returns the laps so far and forgets them.
func (l *laps) take() lapList {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return slices.Clip(all)
}

type lapList []lap

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (l lapList) MarshalLogObject(e zapcore.ObjectEncoder) error {
	for _, x := range l {
		e.AddFloat64(x.part, x.took.Round(time.Millisecond/10).Seconds())
	}
	return nil
}

// timed notes how long each step and each undo took.
func (l *live) timed(steps []session.Step) []session.Step {
	for i, s := range steps {
		steps[i].Do = func(ctx context.Context, save session.Saver) error {
			defer l.laps.end(s.Name)
			return s.Do(ctx, save)
		}
		steps[i].Undo = func(ctx context.Context) error {
			defer l.laps.end(s.Name)
			return s.Undo(ctx)
		}
	}
	return steps
}
