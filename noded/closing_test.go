package noded

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/noded/jobview"
	"cloister/noded/unlock"
	"cloister/policy"
)

// unclosable is a descriptor whose closing hangs until free is called, as the
// last of a mount's does whose file server is dead. It may be closed once.
func unclosable(t *testing.T) (f *os.File, free func()) {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	gate, was := make(chan struct{}), closeFile
	free = sync.OnceFunc(func() { close(gate) })
	closeFile = func(c io.Closer) error {
		if c == f {
			<-gate
		}
		err := was(c)
		if err != nil {
			t.Errorf("closing: %v", err)
		}
		return err
	}
	t.Cleanup(func() {
		free()
		closeFile = was
	})
	return f, free
}

// undone is what the undo of a step says, which must come by the deadline it has.
func undone(t *testing.T, d *Daemon, l *live, step string, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	said := make(chan error, 1)
	for _, s := range d.steps(l, nil) {
		if s.Name == step {
			go func() { said <- s.Undo(ctx) }()
		}
	}
	select {
	case err := <-said:
		return err
	case <-time.After(limit + 10*time.Second):
		t.Fatalf("the undo of %s hangs", step)
		return nil
	}
}

func TestAMountThatDoesNotCloseFailsTheUndoOfUnlockUntilItDoes(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	l := withSession(t, d)
	f, free := unclosable(t)
	l.opened = []*unlock.Opened{{Mount: f}}
	for range 2 { // the second try must not take it for closed
		if err := undone(t, d, l, stepUnlock, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waits for a file server") {
			t.Fatalf("while the mount closes: %v", err)
		}
	}
	free()
	if err := undone(t, d, l, stepUnlock, 10*time.Second); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestAViewThatDoesNotCloseFailsTheUndoOfUnlockUntilItDoes(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	store := &forgetful{asked: []string{"nothing"}}
	d.systemd = store
	l := withSession(t, d)
	f, free := unclosable(t)
	ipc, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l.view = &jobview.View{Mount: f, IPC: ipc}
	if err := undone(t, d, l, stepView, 300*time.Millisecond); err != nil || len(store.asked) != 4 {
		t.Errorf("systemd is not told: %v, %q", err, store.asked)
	}
	if err := undone(t, d, l, stepUnlock, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the view closes: %v", err)
	}
	free()
	if err := undone(t, d, l, stepUnlock, 10*time.Second); err != nil {
		t.Errorf("after that: %v", err)
	}
}
