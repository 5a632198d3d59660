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

// Watch keeps the kernel's rules as the lock says until ctx ends. Whenever
// nf_tables announces a change, by whomever, it checks and mends what was
// altered. report hears of each alteration, mended or not, in words for a
// record; it is called from Watch's own goroutine.
//
// An error means that changes can no longer be heard of; the caller must then
// treat the node as not locked.
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
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		pause := recheck
		if !f.mend(ctx, l, report) {
			pause = retry
		}
		c.SetReadDeadline(time.Now().Add(pause))
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

// mend reports whether the lock holds now.
func (f Filter) mend(ctx context.Context, l Lock, report func(string)) bool {
	err := f.Check(ctx, l)
	if err == nil || ctx.Err() != nil || mutant.Removed(mutant.FilterWatch) {
		return true
	}
	if again := f.Apply(ctx, l); again != nil {
		report(fmt.Sprintf("%v; restoring it failed: %v", err, again))
		return false
	}
	report(fmt.Sprintf("%v; restored", err))
	return true
}
