// Package fuse cuts off FUSE file systems of a job, or of people, that were left
// over when their processes were killed.
//
// A process that waits for a FUSE server's answer cannot be killed once the
// server has read the question. That is over as soon as the server is gone, but
// the connection lives as long as anybody has its descriptor: a process that
// inherited it and waits for itself would stay for ever, and with it the job's
// mounts. The kernel's way out is to abort the connection (fusectl).
package fuse

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cloister/noded/jobview/detached"

	"golang.org/x/sys/unix"
)

// AbortAll aborts every FUSE connection of the node but those that a process
// outside of a control group sees mounted: what is left is the group's, or was
// unmounted while somebody waited in it. It returns the connections' numbers.
func AbortAll(group string) ([]string, error) {
	return abortUnseen(func(thread string) (bool, error) { return isIn(thread, group) }, func(uint32) bool { return false })
}

// AbortPeoples aborts the FUSE connections of people: every one but those that
// somebody else mounted and a process of somebody else's sees.
func AbortPeoples(person func(uid uint32) bool) ([]string, error) {
	return abortUnseen(func(thread string) (bool, error) {
		uid, err := uidOf(thread)
		return err == nil && person(uid), err
	}, person)
}

// abortUnseen aborts all connections but those that a thread which is not blind
// sees mounted, not by a user who does not count.
func abortUnseen(blind func(thread string) (bool, error), countsNot func(uid uint32) bool) ([]string, error) {
	spared, err := seen(blind, countsNot)
	if err != nil {
		return nil, fmt.Errorf("looking for FUSE file systems: %w", err)
	}
	aborted, err := abort(func(c string) bool { return !spared[c] })
	if err != nil {
		return aborted, fmt.Errorf("aborting FUSE connections: %w", err)
	}
	return aborted, nil
}

// abort knows connections by the number that the kernel gives them, which is
// that of their file system's device (linux/fs/fuse/control.c).
func abort(chosen func(connection string) bool) ([]string, error) {
	control, err := detached.New("fusectl", nil, detached.NoSuid|detached.NoDev|detached.NoExec)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil // the kernel has no FUSE
	}
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Openat(int(control.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), "fusectl")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var aborted []string
	var failed []error
	for _, n := range names {
		if !chosen(n) {
			continue
		}
		fd, err := unix.Openat(int(dir.Fd()), n+"/abort", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue // it went by itself
		}
		if err == nil {
			_, err = unix.Write(fd, []byte("1"))
			unix.Close(fd)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", n, err))
			continue
		}
		aborted = append(aborted, n)
	}
	return aborted, errors.Join(failed...)
}

// proc is where proc(5) is mounted.
var proc = "/proc"

// seen lists the FUSE connections that are mounted in the namespace of any thread
// that is not blind. A process has threads when its first one is dead, which has
// no namespace any more, and each can have one of its own.
func seen(blind func(thread string) (bool, error), countsNot func(uid uint32) bool) (map[string]bool, error) {
	threads, err := filepath.Glob(proc + "/[0-9]*/task/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	namespaces := make(map[string]bool)
	for _, t := range threads {
		not, err := blind(t)
		if isNobody(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ns, err := os.Readlink(t + "/ns/mnt")
		if not || isNobody(err) || namespaces[ns] {
			continue
		}
		if err != nil {
			return nil, err
		}
		f, err := os.Open(t + "/mountinfo")
		if err == nil {
			err = mounted(f, countsNot, found)
			f.Close()
		}
		if err != nil && !isNobody(err) {
			return nil, err
		}
		// One that ended in between has not shown what others see there.
		namespaces[ns] = err == nil
	}
	return found, nil
}

// isNobody: one that ended since it was listed, a thread of the kernel, or
// one that even root may not look at. What is mounted for all is seen by others.
func isNobody(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrPermission)
}

func isIn(thread, group string) (bool, error) {
	b, err := os.ReadFile(thread + "/cgroup")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path == group || strings.HasPrefix(path, group+"/"), nil
		}
	}
	return false, nil
}

// uidOf is a thread's real user (proc_pid_status(5)).
func uidOf(thread string) (uint32, error) {
	b, err := os.ReadFile(thread + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok && len(strings.Fields(ids)) > 0 {
			uid, err := strconv.ParseUint(strings.Fields(ids)[0], 10, 32)
			return uint32(uid), err
		}
	}
	return 0, fmt.Errorf("%s names no user", thread)
}

// mounted adds the FUSE file systems of a mountinfo (proc_pid_mountinfo(5)), but
// for those whose user_id= does not count.
func mounted(f *os.File, countsNot func(uid uint32) bool, seen map[string]bool) error {
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		kind, _, _ := strings.Cut(after, " ")
		fields := strings.Fields(before)
		if !strings.HasPrefix(kind, "fuse") || kind == "fusectl" || len(fields) < 3 {
			continue
		}
		n, err := connection(fields[2])
		if err != nil {
			return err
		}
		if uid, ok := userID(after); !ok || !countsNot(uid) {
			seen[n] = true
		}
	}
	return lines.Err()
}

// userID is who mounted a FUSE file system, from what mountinfo has after the
// dash: kind, source, options. The source is the user's to choose.
func userID(after string) (uint32, bool) {
	fields := strings.Fields(after)
	for option := range strings.SplitSeq(fields[len(fields)-1], ",") {
		if id, ok := strings.CutPrefix(option, "user_id="); ok {
			uid, err := strconv.ParseUint(id, 10, 32)
			return uint32(uid), err == nil
		}
	}
	return 0, false
}

// connection is the number of a device, "major:minor", as the kernel has it
// inside (linux/kdev_t.h: 20 bits of minor).
func connection(device string) (string, error) {
	major, minor, _ := strings.Cut(device, ":")
	a, err := strconv.ParseUint(major, 10, 12)
	if err != nil {
		return "", fmt.Errorf("device %.40q: %w", device, err)
	}
	b, err := strconv.ParseUint(minor, 10, 20)
	if err != nil {
		return "", fmt.Errorf("device %.40q: %w", device, err)
	}
	return strconv.FormatUint(a<<20|b, 10), nil
}
