package lockdown

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/pulse"
)

// recheck is how long an alteration can go unnoticed if the kernel had to drop
// the message about it (a full socket buffer, ENOBUFS, makes a check of its
// own). It costs a few netlink dumps.
const recheck = 30 * time.Second

// retry is the pause after a mending that failed: short enough to be back
// within a second of the cause going away.
const retry = 250 * time.Millisecond

// filterPatience is how long the lock may be neither seen nor put back before
// Watch gives up, as doorsPatience is for the doors.
var filterPatience = 30 * time.Second

// Watch keeps the kernel's rules as the lock says until ctx ends. Whenever
// nf_tables announces a change, by whomever, it checks and mends what was
// altered. report hears of each alteration, mended or not, in words for a
// record; it is called from Watch's own goroutine.
//
// An error means that changes can no longer be heard of, or that the lock could
// not be put back for filterPatience; the caller must then treat the node as not
// locked.
func (f Filter) Watch(ctx context.Context, l Lock, report func(string)) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{
		NetNS: f.NetNS, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1),
	})
	if err != nil {
		return fmt.Errorf("watching the packet filter: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	m := mender{
		check:  func(ctx context.Context) error { return f.Check(ctx, l) },
		apply:  func(ctx context.Context) error { return f.Apply(ctx, l) },
		report: report,
	}
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		if err := m.mend(ctx); err != nil {
			if time.Since(m.since) > filterPatience {
				return fmt.Errorf("watching the packet filter: %w", err)
			}
			// Announcements are no reason to try sooner: those of the rules that this
			// try did put in are among them.
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
			continue
		}
		c.SetReadDeadline(time.Now().Add(recheck))
		if ctx.Err() != nil { // the deadline above may have undone stop's
			break
		}
		// Whatever came, even an error such as ENOBUFS, is a reason to look.
		if _, err := c.Receive(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watching the packet filter: %w", err)
		}
	}
	return nil
}

// A mender has the lock applied when it is not in force, until all of that has
// worked once. Rules that are right again do not suffice: connections that came
// up without them may still be there.
type mender struct {
	check, apply func(context.Context) error
	report       func(string)

	why   error // what was found, nil while nothing is to be mended
	since time.Time
}

// mend returns an error if the lock does not hold.
func (m *mender) mend(ctx context.Context) error {
	err := m.check(ctx)
	if ctx.Err() != nil || mutant.Removed(mutant.FilterWatch) {
		return nil
	}
	if err != nil {
		if m.why == nil {
			m.since = time.Now()
		}
		m.why = err
	}
	if m.why == nil {
		return nil
	}
	if again := m.apply(ctx); again != nil {
		m.report(fmt.Sprintf("%v; restoring it failed: %v", m.why, again))
		return fmt.Errorf("%w; restoring it failed: %w", m.why, again)
	}
	m.report(fmt.Sprintf("%v; restored", m.why))
	m.why = nil
	return nil
}
