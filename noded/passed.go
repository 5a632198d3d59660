package noded

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A process is one by its number and by when it started, in clock ticks since
// boot: the number alone may come to stand for another.
type process struct {
	pid   int
	start string
}

// passed holds the slurmstepds of ordinary steps that were let through, with
// their jobs.
type passed map[process]uint32

// looks is how many of them are looked at when one is added: more than come, so
// that those that ended do not pile up.
const looks = 8

func (p passed) add(pid int, job uint32) error {
	start, err := startOf(pid)
	if err != nil {
		return err
	}
	left := looks
	for other := range p {
		if left == 0 {
			break
		}
		left--
		if other.gone() {
			delete(p, other)
		}
	}
	p[process{pid, start}] = job
	return nil
}

// running is a job whose step runs still, if there is one.
func (p passed) running() (job uint32, found bool) {
	for of, id := range p {
		if !of.gone() {
			return id, true
		}
		delete(p, of)
	}
	return 0, false
}

// gone: a process that cannot be looked at counts as one that runs.
func (p process) gone() bool {
	start, err := startOf(p.pid)
	if err != nil {
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
	}
	return start != p.start
}

// startOf reads field 22 of /proc/PID/stat (proc_pid_stat(5)). The second, in
// parentheses, may hold anything.
func startOf(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("looking at a step's slurmstepd: %w", err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("looking at a step's slurmstepd: %q has no start time", stat)
	}
	return string(fields[19]), nil
}
