package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// paceLook is how long a guest's clock is watched, and paceOff what it may lose or gain in that time.
	paceLook = 4 * time.Second
	paceOff  = 100 * time.Millisecond
	// paceTries is how often a guest is booted for a clock that keeps pace.
	paceTries = 3
)

// keepPace boots guests anew whose clock runs too fast or too slow. A kernel measures the processor's clock against
// another one while it boots; on a busy host that went wrong by a factor of nine, and a saved state would keep it.
func (c *Cluster) keepPace(ctx context.Context, log func(string, ...any)) error {
	for range paceTries {
		off, err := c.offPace()
		if err != nil || len(off) == 0 {
			return err
		}
		for _, name := range off {
			log("the clock of %s does not keep pace: booting it again", name)
			if err := c.Restart(ctx, name); err != nil {
				return err
			}
		}
		if err := c.WaitIdle(ctx); err != nil {
			return err
		}
	}
	return errors.New("guests' clocks do not keep pace with the host's: it is too busy to boot them, try again later")
}

// offPace names the guests whose clock does not keep pace.
func (c *Cluster) offPace() (off []string, err error) {
	var mu sync.Mutex
	err = c.each(func(g *node) error {
		before, err := g.agent.clockLag()
		if err != nil {
			return fmt.Errorf("read %s's clock: %w", g.spec.Name, err)
		}
		time.Sleep(paceLook)
		after, err := g.agent.clockLag()
		if err != nil {
			return fmt.Errorf("read %s's clock: %w", g.spec.Name, err)
		}
		if (after - before).Abs() > paceOff {
			mu.Lock()
			defer mu.Unlock()
			off = append(off, g.spec.Name)
		}
		return nil
	})
	return off, err
}
