package nodecheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// slurmd looks at every slurmd that runs, however it was started. None is no
// fault: then nothing can be launched here. Nor is a user's program of that
// name: else any user could make a node unfit.
func (n Node) slurmd() []string {
	proc := or(n.Proc, "/proc")
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return []string{fmt.Sprintf("looking for slurmd: %v", err)}
	}
	var wrong []string
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		dir := filepath.Join(proc, d.Name())
		if name, err := os.ReadFile(dir + "/comm"); err != nil || strings.TrimSpace(string(name)) != "slurmd" {
			continue // a process that ended meanwhile has no comm
		}
		if roots, err := rootsOwn(dir); err != nil {
			wrong = append(wrong, err.Error())
			continue
		} else if !roots && !mutant.Removed(mutant.RootsSlurmd) {
			continue
		}
		for _, check := range []func(string) error{n.confined, n.forgetful, n.local, n.release} {
			if err := check(dir); os.IsNotExist(err) {
				break
			} else if err != nil {
				wrong = append(wrong, err.Error())
			}
		}
	}
	return wrong
}

// rootsOwn says whether a process is root's and none that a user started. Not
// the owner of /proc/PID tells that, which is root for what is not dumpable, but
// its four user ids. They are all 0 in sudo too, while it waits for a password,
// and a user can start it through a link called slurmd: so no set-uid program
// is taken for slurmd. A user's own executable is not touched, it can lie on a
// file system that hangs.
func rootsOwn(dir string) (bool, error) {
	b, err := readBounded(dir + "/status")
	if os.IsNotExist(err) || errors.Is(err, unix.ESRCH) {
		return false, nil // it ended meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("asking whose a slurmd is: %w", err)
	}
	ids, err := userIDs(string(b))
	if err != nil {
		return false, fmt.Errorf("asking whose the slurmd of process %s is: %w", filepath.Base(dir), err)
	}
	if ids != [4]uint32{} {
		return false, nil
	}
	exe, err := os.Stat(dir + "/exe")
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at slurmd's executable: %w", err)
	}
	return exe.Mode()&(os.ModeSetuid|os.ModeSetgid) == 0, nil
}

// userIDs reads the real, effective, saved and file system user id out of
// proc_pid_status(5).
func userIDs(status string) (ids [4]uint32, err error) {
	for line := range strings.Lines(status) {
		text, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		fields := strings.Fields(text)
		if len(fields) != len(ids) {
			return ids, fmt.Errorf("its status has %q", line)
		}
		for i, f := range fields {
			id, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return ids, fmt.Errorf("its status has %q", line)
			}
			ids[i] = uint32(id)
		}
		return ids, nil
	}
	return ids, errors.New("its status has no Uid")
}

// Where slurmd must not write, and what it must not see: identity, replay
// memory and journal of noded. sbcast leaves a root-owned file wherever slurmd
// may write.
var (
	readOnly     = []string{"/", "/etc", "/usr", "/run", "/run/systemd/system", "/var/lib", "/boot", "/root", "/dev", "/sys", "/proc/sys"}
	inaccessible = []string{"/etc/cloister", "/var/lib/cloister", "/run/cloister/sessions"}
)

const dropIn = "install systemd/slurmd.service.d/cloister.conf as /etc/systemd/system/slurmd.service.d/cloister.conf, systemctl daemon-reload, systemctl restart slurmd"

// confined reads the mounts that slurmd really has: a unit file or drop-in says
// only how the next one would start.
func (n Node) confined(dir string) error {
	b, err := readBounded(dir + "/mountinfo")
	if err != nil {
		return err
	}
	mounts, err := parseMounts(string(b))
	if err != nil {
		return fmt.Errorf("reading the mounts of slurmd: %w", err)
	}
	for _, path := range readOnly {
		if m := covering(mounts, path); m == nil || !m.readOnly {
			return fmt.Errorf("slurmd (process %s) may write %s: %s", filepath.Base(dir), path, dropIn)
		}
	}
	for _, path := range inaccessible {
		// systemd puts a mount of its own without rights there (systemd.exec(5)).
		if _, err := os.Lstat(path); n.Proc == "" && os.IsNotExist(err) {
			continue
		}
		if m := covering(mounts, path); m == nil || m.point != path || !strings.Contains(m.root, "/inaccessible/") {
			return fmt.Errorf("slurmd (process %s) can see %s: %s", filepath.Base(dir), path, dropIn)
		}
	}
	return nil
}

// A mount is one line of proc_pid_mountinfo(5): what part of its file system
// lies where.
type mount struct {
	root, point string
	readOnly    bool
}

func parseMounts(text string) (mounts []mount, err error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			return nil, fmt.Errorf("%q is not a line of mountinfo", line)
		}
		mounts = append(mounts, mount{root: fields[3], point: fields[4], readOnly: slices.Contains(strings.Split(fields[5], ","), "ro")})
	}
	return mounts, nil
}

// covering is the mount that a path lies on: the last one made of those at the
// longest prefix.
func covering(mounts []mount, path string) (best *mount) {
	for i, m := range mounts {
		if m.point != path && m.point != "/" && !strings.HasPrefix(path, m.point+"/") {
			continue
		}
		if best == nil || len(m.point) >= len(best.point) {
			best = &mounts[i]
		}
	}
	return best
}

// forgetful refuses a slurmd whose C library keeps what was freed: a step's
// arguments and environment pass through slurmd, which lives for weeks. The
// GNU C library overwrites freed memory with glibc.malloc.perturb, but not what
// its per-thread cache takes (The GNU C Library, "Memory Allocation Tunables").
func (n Node) forgetful(dir string) error {
	b, err := readBounded(dir + "/environ")
	if err != nil {
		return err
	}
	perturb, cache := "", ""
	for v := range strings.SplitSeq(string(b), "\x00") {
		tunables, ok := strings.CutPrefix(v, "GLIBC_TUNABLES=")
		if !ok {
			continue
		}
		for t := range strings.SplitSeq(tunables, ":") {
			switch name, value, _ := strings.Cut(t, "="); name {
			case "glibc.malloc.perturb":
				perturb = value
			case "glibc.malloc.tcache_count":
				cache = value
			}
		}
	}
	if value, err := strconv.ParseUint(perturb, 10, 8); err != nil || value == 0 || cache != "0" {
		return fmt.Errorf("slurmd (process %s) does not overwrite the memory that it frees: %s", filepath.Base(dir), dropIn)
	}
	return nil
}

// local refuses a slurmd that was told to take its configuration from anywhere
// but the node's own file.
func (n Node) local(dir string) error {
	conf := or(n.SlurmConf, "/etc/slurm/slurm.conf")
	process := "slurmd (process " + filepath.Base(dir) + ")"
	b, err := readBounded(dir + "/cmdline")
	if err != nil {
		return err
	}
	args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	for i, a := range args {
		if strings.HasPrefix(a, "--conf-server") {
			return fmt.Errorf("%s was started with %s, configless: take that out of SLURMD_OPTIONS in /etc/default/slurmd and give the node a slurm.conf of its own", process, a)
		}
		// -f alone or in a bundle, as getopt takes it: -Df FILE, -fFILE
		if i > 0 && strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") {
			if _, file, ok := strings.Cut(a, "f"); ok {
				if file == "" && i+1 < len(args) {
					file = args[i+1]
				}
				if file != conf {
					return fmt.Errorf("%s was started with %s %s: it must read %s", process, a, file, conf)
				}
			}
		}
	}
	if b, err = readBounded(dir + "/environ"); err != nil {
		return err
	}
	for _, v := range strings.Split(string(b), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case name == "SLURM_CONF_SERVER", name == "SLURMD_RECONF_CONF_CACHE":
			return fmt.Errorf("%s has %s in its environment: configless; take that away and give the node a slurm.conf of its own", process, name)
		case name == "SLURM_CONF" && value != conf:
			return fmt.Errorf("%s has SLURM_CONF=%s in its environment: it must read %s", process, value, conf)
		}
	}
	return nil
}
