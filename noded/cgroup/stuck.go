package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// proc is where proc(5) is mounted.
var proc = "/proc"

// Stuck reports whether the user has processes in the job, and each of them was
// killed, or is about to end, and does not: Slurm, too, waits for them.
func (j Job) Stuck() (bool, error) {
	stuck := false
	err := j.processes(func(pid string) error {
		threads, err := threadsOf(pid)
		if err != nil {
			return err
		}
		for _, t := range threads {
			switch is, err := look(t); {
			case err != nil:
				return err
			case is == alive:
				stuck = false
				return fs.SkipAll
			case is == held:
				stuck = true
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("looking for processes of job %d that do not end: %w", j.ID, err)
	}
	return stuck, nil
}

// threadsOf lists the directories of a process's threads. Each counts: the first
// can be dead, and the process be there for another one.
func threadsOf(pid string) ([]string, error) {
	dir := filepath.Join(proc, pid, "task")
	entries, err := os.ReadDir(dir)
	if err != nil && !isGone(err) {
		return nil, err
	}
	var threads []string
	for _, e := range entries {
		threads = append(threads, filepath.Join(dir, e.Name()))
	}
	return threads, nil
}

func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// A state is that of a thread.
type state int

const (
	alive state = iota
	dead        // waited for by its parent or the rest of its process, and by nothing else
	held        // it ends as soon as what it waits for is over
)

func look(thread string) (state, error) {
	status, err := os.ReadFile(filepath.Join(thread, "status"))
	if err == nil {
		var stat []byte
		if stat, err = os.ReadFile(filepath.Join(thread, "stat")); err == nil {
			return judge(string(status), string(stat)), nil
		}
	}
	if isGone(err) {
		return dead, nil
	}
	return alive, err
}

// judge reads proc_pid_status(5) and proc_pid_stat(5).
func judge(status, stat string) state {
	is, killed := "", false
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "State":
			is, _, _ = strings.Cut(value, " ")
		case "SigPnd", "ShdPnd":
			pending, err := strconv.ParseUint(value, 16, 64)
			killed = killed || err == nil && pending>>(unix.SIGKILL-1)&1 == 1
		}
	}
	switch {
	case is == "Z" || is == "X":
		return dead
	case ends(stat):
		return held
	case (is == "D" || is == "I") && killed: // a sleep that no signal ends
		return held
	}
	return alive
}

// ends reports whether a thread is on its way out (PF_EXITING of linux/sched.h). It
// gets no signal any more, shows none as pending, and can wait in any kind of sleep,
// for a page of its memory say.
func ends(stat string) bool {
	const flags = 9 - 3 // counted from the third field, for the second has blanks
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) <= flags {
		return false
	}
	n, err := strconv.ParseUint(f[flags], 10, 64)
	return err == nil && n&4 != 0
}

// processes calls do with each of the user's processes in the job, until it
// returns an error; fs.SkipAll ends it without one.
func (j Job) processes(do func(pid string) error) error {
	return filepath.WalkDir(j.dir(), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" || !strings.Contains(path, "/user/") {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, pid := range strings.Fields(string(b)) {
			if err := do(pid); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxLeft is how many processes an error names, and how many places of each.
const maxLeft = 5

// left says which of the user's processes are there and where in the kernel their
// threads wait (proc_pid_wchan(5)), for whoever must find out what for. Their names
// are the user's, and not told.
func (j Job) left() string {
	var said []string
	_ = j.processes(func(pid string) error {
		said = append(said, "process "+pid+" in "+strings.Join(places(pid), " and "))
		return nil
	})
	return strings.Join(few(said), ", ")
}

func places(pid string) []string {
	threads, _ := threadsOf(pid)
	var all []string
	for _, t := range threads {
		if where, _ := os.ReadFile(filepath.Join(t, "wchan")); len(where) > 0 {
			all = append(all, string(where))
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > 1 && all[0] == "0" { // it runs, or is dead
		all = all[1:]
	}
	return few(all)
}

func few(said []string) []string {
	if len(said) > maxLeft {
		return append(said[:maxLeft], fmt.Sprintf("%d more", len(said)-maxLeft))
	}
	return said
}
