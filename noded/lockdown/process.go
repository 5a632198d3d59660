package lockdown

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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

// gone turns the errors by which a process that ended shows into none.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// A look at all processes.
type look struct {
	found []Process
	// missed: a process may have been there that the look did not see. One that
	// forks and ends in turn is under a new number by the time that its own is read.
	missed bool

	dead map[int]bool // those that had ended and were not waited for
}

// again looks at those that worth says yes to, knowing what first reads.
func (l *look) again(first func(*Process) error, worth func(Process) bool) error {
	before, err := lastPID()
	if err != nil {
		return err
	}
	pids, err := newestFirst()
	if err != nil {
		return err
	}
	after, err := lastPID()
	if err != nil {
		return err
	}
	// The numbers are listed in their order, and a new process has the next one,
	// until they begin anew.
	*l = look{missed: after < before, dead: l.dead}
	dead := map[int]bool{}
	for _, pid := range pids {
		p := &Process{PID: pid}
		if err = first(p); err == nil && worth(*p) {
			if p, err = process(pid); err == nil && p == nil {
				dead[pid] = true
				l.missed = l.missed || !l.dead[pid]
			}
		} else {
			p = nil
		}
		if gone(err) != nil {
			return err
		}
		if err != nil {
			l.missed = true
		} else if p != nil {
			l.found = append(l.found, *p)
		}
	}
	l.dead = dead
	return nil
}

// newestFirst lists the numbers of all processes, those first that were given
// last: of a process that lives for a moment something may be seen.
func newestFirst() ([]int, error) {
	f, err := os.Open(procDir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.SortFunc(pids, func(a, b int) int { return b - a })
	return pids, nil
}

// lastPID is the number that was given last, of proc_loadavg(5).
func lastPID() (int, error) {
	b, err := os.ReadFile(filepath.Join(procDir, "loadavg"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) != 5 {
		return 0, fmt.Errorf("reading loadavg: %d fields", len(fields))
	}
	n, err := strconv.Atoi(fields[4])
	if err != nil {
		return 0, fmt.Errorf("reading loadavg: %w", err)
	}
	return n, nil
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
	b, err := os.ReadFile(path) // its line of groups can be of any length
	if err != nil {
		return err
	}
	uids := false
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "Name":
			p.Name = value
		case "State":
			p.ended = strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X")
		case "Threads": // all of it ended only if the first thread is the last
			p.ended = value == "0" || value == "1"
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
		if uids && (!p.ended || name == "Threads") {
			break // Name and State come before, Threads after (proc_pid_status(5))
		}
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
