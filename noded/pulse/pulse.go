// Package pulse tells whether a daemon's loops still come round, so that its
// watchdog is fed by their progress and not by a clock. A loop that is stuck,
// in a system call or on a lock, beats no more.
//
// It does not say what is wrong, and ends nothing: that is systemd's to do.
package pulse

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Monitor knows the loops that run. Its zero value is ready.
type Monitor struct {
	mu    sync.Mutex
	loops map[*loop]struct{}
}

type loop struct {
	name  string
	limit time.Duration
	last  atomic.Int64 // since start, so that a changed clock is no matter
}

var start = time.Now()

// key is where a context carries its loop.
type key struct{}

// Begin adds a loop that must beat at least each limit, and returns a context
// for Beat. The loop counts until end is called; call it when it is over.
func (m *Monitor) Begin(ctx context.Context, name string, limit time.Duration) (_ context.Context, end func()) {
	l := &loop{name: name, limit: limit}
	l.last.Store(int64(time.Since(start)))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loops == nil {
		m.loops = map[*loop]struct{}{}
	}
	m.loops[l] = struct{}{}
	return context.WithValue(ctx, key{}, l), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.loops, l)
	}
}

// Beat says that the loop to which the context belongs came round. Under a
// context of no loop, as in tests, it does nothing.
func Beat(ctx context.Context) {
	if l, ok := ctx.Value(key{}).(*loop); ok {
		l.last.Store(int64(time.Since(start)))
	}
}

// Late names the loops that did not beat in time, in words for a log.
func (m *Monitor) Late() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var late []string
	for l := range m.loops {
		if since := time.Since(start) - time.Duration(l.last.Load()); since > l.limit {
			late = append(late, fmt.Sprintf("%s has not come round for %s", l.name, since.Round(time.Second)))
		}
	}
	slices.Sort(late)
	return late
}
