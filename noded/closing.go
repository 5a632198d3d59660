package noded

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// closings are descriptors on their way to be closed. Whoever lets go last of a
// volume unmounts it, and waits for the file server in a system call that nothing
// interrupts: no step may do that itself.
type closings struct {
	mu  sync.Mutex
	all []<-chan struct{} // closed when the descriptor is
}

// closingGrace is how long it is waited for a closing that should not take any
// time, where another step's undo waits for it in earnest.
const closingGrace = 5 * time.Second

// closeFile is a variable for tests, which have no file server to wait for.
var closeFile = io.Closer.Close

// begin closes each file beside everything else. They are not the caller's any
// more.
func (c *closings) begin(files ...io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range files {
		done := make(chan struct{})
		c.all = append(c.all, done)
		go func() {
			defer close(done)
			closeFile(f)
		}()
	}
}

// wait waits for all that were begun, or for the end of ctx, and then says so.
// Called again it waits for the same ones.
func (c *closings) wait(ctx context.Context) error {
	c.mu.Lock()
	all := slices.Clone(c.all)
	c.mu.Unlock()
	open := 0
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			select {
			case <-done: // before ctx ended, perhaps
			default:
				open++
			}
		}
	}
	if open > 0 {
		return fmt.Errorf("letting go of what noded has of the volumes: %d descriptors are still being closed, which waits for a file server: %w", open, context.Cause(ctx))
	}
	return nil
}
