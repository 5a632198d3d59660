package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// turns are the tests of this process that have their turn.
var turns sync.Map

// TakeTurn waits until a core is left for the test's clusters: there is one for
// each, among all test processes of this machine, because a cluster hardly ever
// keeps more than one of its guests busy, and a guest that has to share its core
// is too slow for Slurm's and noded's time limits. The turn ends with the test;
// a second call does nothing.
func TakeTurn(t testing.TB) {
	t.Helper()
	if _, taken := turns.LoadOrStore(t.Name(), true); taken {
		return
	}
	t.Cleanup(func() { turns.Delete(t.Name()) }) // -count=2 runs it again
	began := time.Now()
	turn, err := takeTurn(t.Context(), runtime.NumCPU())
	if err != nil {
		t.Fatalf("waiting for the test's turn: %v", err)
	}
	if waited := time.Since(began); waited > time.Second {
		t.Logf("waited %.0f s for other tests", waited.Seconds())
	}
	t.Cleanup(turn.unlock)
}

// takeTurn waits for one of n locks, behind those who wait already: a package
// of few long tests must not begin them when all others are done.
func takeTurn(ctx context.Context, n int) (*fileLock, error) {
	root, err := cacheDir()
	if err != nil {
		return nil, err
	}
	queue, err := lockExclusive(filepath.Join(root, "turn-queue.lock"))
	if err != nil {
		return nil, err
	}
	defer queue.unlock()
	for {
		for i := range n {
			if turn, err := tryLock(filepath.Join(root, fmt.Sprintf("turn-%d.lock", i))); err == nil {
				return turn, nil
			} else if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
