package lockdown

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// A Process is what a scan of /proc shows of one. Needs a /proc that hides no
// process (ProtectProc=default in noded's unit).
type Process struct {
	PID    int
	UIDs   [4]uint32 // real, effective, saved, file system
	Cgroup string    // in the unified hierarchy, or systemd's own in version 1
	Name   string    // up to 15 bytes, chosen by the process

	ended bool // it was not waited for yet: there is nothing left in it to kill
}

// procDir is where proc(5) is; a test has another.
var procDir = "/proc"

// String is for messages.
func (p Process) String() string { return fmt.Sprintf("%d (%q, uid %d)", p.PID, p.Name, p.UIDs[0]) }

// EndForeign kills every process of a person, the user uid's first of all,
// unless it is in keepCgroup or below (empty: no exception), and returns those
// that it killed. People are uids of 1000 and above but for the ranges that
// systemd.io/UIDS-GIDS gives to services, 60001 to 65535; subordinate uids of
// somebody's containers are people's too. It scans again until none is found,
// so a process that forks does not win; ctx bounds that.
func EndForeign(ctx context.Context, uid uint32, keepCgroup string) ([]Process, error) {
	if mutant.Removed(mutant.EndForeign) {
		return nil, nil
	}
	keep := strings.TrimSuffix(keepCgroup, "/")
	theirs := func(p Process) bool {
		for _, u := range p.UIDs {
			if u == uid && uid != 0 || isPerson(u) {
				return true
			}
		}
		return false
	}
	ended, err := endProcesses(ctx, (*Process).readStatus, theirs, func(p Process) bool {
		return keep == "" || p.Cgroup != keep && !strings.HasPrefix(p.Cgroup, keep+"/")
	})
	if err != nil {
		return ended, fmt.Errorf("ending foreign processes: %w", err)
	}
	return ended, nil
}

func isPerson(uid uint32) bool { return uid >= 1000 && (uid <= 60000 || uid > 65535) }

// endProcesses kills what matches until a scan finds nothing that does. Of most
// processes the first question is the last, and first reads what that needs: a
// node has a hundred of them, and a scan is a part of every session's start.
func endProcesses(ctx context.Context, first func(*Process) error, worth, match func(Process) bool) ([]Process, error) {
	var ended []Process
	known := map[int]bool{}
	both := func(p Process) bool { return worth(p) && match(p) }
	for {
		all, err := processes(first, worth)
		if err != nil {
			return ended, err
		}
		var left []string
		for _, p := range all {
			if p.PID == os.Getpid() || !match(p) {
				continue
			}
			if err := kill(p, both); err != nil {
				return ended, fmt.Errorf("killing process %s: %w", p, err)
			}
			if !known[p.PID] {
				known[p.PID] = true
				ended = append(ended, p)
			}
			left = append(left, p.String())
		}
		if len(left) == 0 {
			return ended, nil
		}
		if err := pause(ctx); err != nil {
			return ended, fmt.Errorf("process %s does not die: %w", strings.Join(left, ", "), err)
		}
	}
}

// kill makes sure that the number still is that process before it kills it.
func kill(p Process, match func(Process) bool) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	if now, err := process(p.PID); err != nil || now == nil || !match(*now) {
		return gone(err)
	}
	return gone(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
}

// gone turns the errors by which a process that ended shows into none.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// processes lists those that worth says yes to, knowing what first reads.
func processes(first func(*Process) error, worth func(Process) bool) ([]Process, error) {
	dirs, err := os.ReadDir(procDir)
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		p := &Process{PID: pid}
		if err = first(p); err == nil && worth(*p) {
			p, err = process(pid)
		} else {
			p = nil
		}
		if gone(err) != nil {
			return nil, err
		}
		if err == nil && p != nil {
			out = append(out, *p)
		}
	}
	return out, nil
}

// process reads one of /proc; nil if it has ended but was not waited for:
// there is nothing left in it to kill.
func process(pid int) (*Process, error) {
	p := &Process{PID: pid}
	if err := errors.Join(p.readStatus(), p.readCgroup()); err != nil {
		return nil, err
	}
	if p.ended {
		return nil, nil
	}
	return p, nil
}

func (p *Process) readStatus() error {
	path := filepath.Join(procDir, strconv.Itoa(p.PID), "status")
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	uids := false
	s := bufio.NewScanner(f)
	for s.Scan() {
		name, value, _ := strings.Cut(s.Text(), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "Name":
			p.Name = value
		case "State":
			p.ended = strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X")
		case "Uid":
			fields := strings.Fields(value)
			if len(fields) != len(p.UIDs) {
				return fmt.Errorf("reading %s: %d uids", path, len(fields))
			}
			for i, x := range fields {
				u, err := strconv.ParseUint(x, 10, 32)
				if err != nil {
					return fmt.Errorf("reading %s: %w", path, err)
				}
				p.UIDs[i] = uint32(u)
			}
			uids = true
		}
		if uids {
			break // Name and State come before (proc_pid_status(5))
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	if !uids && !p.ended {
		return fmt.Errorf("reading %s: it names no uid", path)
	}
	return nil
}

func (p *Process) readCgroup() error {
	b, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(p.PID), "cgroup"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		// cgroups(7): hierarchy-ID:controllers:path
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 && (parts[0] == "0" || parts[1] == "name=systemd" && p.Cgroup == "") {
			p.Cgroup = parts[2]
		}
	}
	return nil
}
