package nodecheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/pulse"
)

// swap refuses every swap space, whatever it lies on: what is written there
// outlives the session, and from /proc/swaps nobody can tell a disk from a
// device that forgets.
func (n Node) swap() error {
	if mutant.Removed(mutant.SwapCheck) {
		return nil
	}
	path := or(n.Swaps, "/proc/swaps")
	lines, err := readLines(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return fmt.Errorf("asking for swap: %w", err)
	}
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "Filename" {
			return fmt.Errorf("swap is on (%s): memory of a job could reach a disk; swapoff -a, and take it out of /etc/fstab and of systemd's swap units", fields[0])
		}
	}
	return nil
}

// corePattern refuses what sends a dump to a program: the kernel starts a
// pipe's program with the dump on its standard input even where RLIMIT_CORE is
// 0 (core(5)), and connects to the socket after an at sign (Linux 6.16).
func (n Node) corePattern() error {
	if mutant.Removed(mutant.CoreCheck) {
		return nil
	}
	lines, err := readLines(or(n.CorePattern, "/proc/sys/kernel/core_pattern"))
	if err != nil {
		return fmt.Errorf("asking where core dumps go: %w", err)
	}
	if len(lines) > 0 && strings.ContainsAny(lines[0][:1], "|@") {
		return fmt.Errorf("kernel.core_pattern is %q, which hands core dumps to a program: set kernel.core_pattern=core in /etc/sysctl.d", lines[0])
	}
	return nil
}

// hibernation refuses a kernel that was told where to write all memory to.
func (n Node) hibernation() error {
	words, err := n.bootParameters()
	if err != nil {
		return err
	}
	for _, word := range words {
		if strings.HasPrefix(word, "resume=") {
			return fmt.Errorf("the kernel's command line has %s: hibernation would write the memory of a job there; take it out of the boot loader's configuration", word)
		}
	}
	return nil
}

// forgetfulKernel refuses a kernel that leaves in freed pages what a job had
// there. Of several values the last counts; those that say yes are
// kstrtobool's (lib/kstrtox.c).
func (n Node) forgetfulKernel() error {
	words, err := n.bootParameters()
	if err != nil {
		return err
	}
	on := false
	for _, word := range words {
		if value, ok := strings.CutPrefix(word, "init_on_free="); ok {
			on = slices.Contains([]string{"1", "y", "Y", "t", "T", "on", "On", "ON"}, value)
		}
	}
	if !on {
		return errors.New("the kernel does not overwrite the memory that it frees: boot it with init_on_free=1, in the boot loader's configuration")
	}
	return nil
}

func (n Node) bootParameters() (words []string, err error) {
	lines, err := readLines(or(n.CommandLine, "/proc/cmdline"))
	if err != nil {
		return nil, fmt.Errorf("asking for the kernel's command line: %w", err)
	}
	for _, line := range lines {
		words = append(words, strings.Fields(line)...)
	}
	return words, nil
}

// recheck is how long a change can go unnoticed of which the kernel does not
// tell: that of core_pattern.
var recheck = 30 * time.Second

// WatchMemory tells what is wrong with swap and core dumps until ctx ends. The
// kernel announces each swapon (proc(5) does not say so: mm/swapfile.c,
// swaps_poll). wrong is called from WatchMemory's own goroutine. An error means
// that changes can no longer be noticed.
func (n Node) WatchMemory(ctx context.Context, wrong func(fault string)) error {
	swaps, err := os.Open(or(n.Swaps, "/proc/swaps"))
	if errors.Is(err, fs.ErrNotExist) {
		<-ctx.Done() // no swap, ever
		return nil
	}
	if err != nil {
		return fmt.Errorf("watching swap: %w", err)
	}
	defer swaps.Close()
	wake, end, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("watching swap: %w", err)
	}
	defer wake.Close()
	stop := context.AfterFunc(ctx, func() { end.Close() })
	defer func() {
		if stop() {
			end.Close()
		}
	}()
	fds := []unix.PollFd{{Fd: int32(swaps.Fd()), Events: unix.POLLPRI}, {Fd: int32(wake.Fd())}}
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		for _, check := range []func() error{n.swap, n.corePattern} {
			if err := check(); err != nil && !mutant.Removed(mutant.SwapWatch) {
				wrong(err.Error())
			}
		}
		if _, err := unix.Poll(fds, int(recheck.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watching swap: %w", err)
		}
	}
	return nil
}
