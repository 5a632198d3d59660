package lockdown

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// EndForeign kills every process of a person, the user uid's first of all,
// unless it is in keepCgroup or below (empty: no exception), and returns those
// that it killed. It looks again until it is sure that there is none, so a process
// that forks does not win; ctx bounds that.
func EndForeign(ctx context.Context, uid uint32, keepCgroup string) ([]Process, error) {
	if mutant.Removed(mutant.EndForeign) {
		return nil, nil
	}
	keep := strings.TrimSuffix(keepCgroup, "/")
	theirs := func(p Process) bool {
		for _, u := range p.UIDs {
			if u == uid && uid != 0 || IsPerson(u) {
				return true
			}
		}
		return false
	}
	ended, err := hunt{first: (*Process).readStatus, worth: theirs, sure: true, match: func(p Process) bool {
		return keep == "" || p.Cgroup != keep && !strings.HasPrefix(p.Cgroup, keep+"/")
	}}.end(ctx)
	if err != nil {
		return ended, fmt.Errorf("ending foreign processes: %w", err)
	}
	return ended, nil
}

// IsPerson: people are uids of 1000 and above but for the ranges that
// systemd.io/UIDS-GIDS gives to services, 60001 to 65535; subordinate uids of
// somebody's containers are people's too.
func IsPerson(uid uint32) bool { return uid >= 1000 && (uid <= 60000 || uid > 65535) }

// A hunt kills processes until a look finds none. Of most processes the first
// question is the last: a node has a hundred of them, and a look is a part of
// every session's start.
type hunt struct {
	first func(*Process) error // reads what worth asks for
	worth func(Process) bool   // the first question
	match func(Process) bool   // the second, when all is read
	// sure: a look that may have missed a process does not end it. Processes come
	// and go in a job too, so a watch over a session is not for this.
	sure bool
}

func (h hunt) quarry(p Process) bool { return h.worth(p) && h.match(p) }

// end returns the processes that it found, in the end all of them killed.
func (h hunt) end(ctx context.Context) ([]Process, error) {
	var ended []Process
	known := map[int]bool{}
	var look look
	for {
		if err := look.again(h.first, h.worth); err != nil {
			return ended, err
		}
		var left []string
		whole := map[string]bool{} // control groups, and whether all in it was killed at once
		for _, p := range look.found {
			if p.PID == os.Getpid() || !h.match(p) {
				continue
			}
			if _, tried := whole[p.Cgroup]; !tried {
				whole[p.Cgroup] = h.endGroup(p.Cgroup)
			}
			if !whole[p.Cgroup] {
				if err := kill(p, h.quarry); err != nil {
					return ended, fmt.Errorf("killing process %s: %w", p, err)
				}
			}
			if !known[p.PID] {
				known[p.PID] = true
				ended = append(ended, p)
			}
			left = append(left, p.String())
		}
		if len(left) == 0 && !(h.sure && look.missed) {
			return ended, nil
		}
		if err := pause(ctx); err != nil && len(left) == 0 {
			return ended, fmt.Errorf("processes come and go too fast to see whose they are: %w", err)
		} else if err != nil {
			return ended, fmt.Errorf("process %s does not die: %w", strings.Join(left, ", "), err)
		}
	}
}

// cgroupRoot is where the unified hierarchy is; a test has another.
var cgroupRoot = "/sys/fs/cgroup"

// endGroup kills a control group at once if all in it and below is quarry, and
// reports whether it did: a process that forks and ends in turn is gone by the
// time that its number is killed (cgroup.kill, admin-guide/cgroup-v2.rst).
func (h hunt) endGroup(group string) bool {
	if path.Clean("/"+group) == "/" {
		return false
	}
	dir := filepath.Join(cgroupRoot, group)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return gone(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return gone(err)
		}
		for _, number := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(number)
			if err != nil || pid == 0 || pid == os.Getpid() {
				return errors.New("not quarry") // 0: of another namespace
			}
			if p, err := process(pid); gone(err) != nil || err == nil && p != nil && !h.quarry(*p) {
				return errors.New("not quarry")
			}
		}
		return nil
	})
	return err == nil && os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil
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
