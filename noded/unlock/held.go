package unlock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// heldByProcess reports whether any process on the node has something of a device
// or of the file system on it: a descriptor, a mapping in memory, a directory, a
// mount. So does who has a mount namespace that no process lives in. What is only
// on its way through a socket, in no process's hands, is not found.
func heldByProcess(dev uint64) (bool, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false, err
	}
	lived, kept := map[string]bool{}, map[string]bool{} // mount namespaces
	for _, dir := range dirs {
		held, err := holds(dir, dev, lived, kept)
		if gone(err) {
			continue
		}
		if held || err != nil {
			return held, err
		}
	}
	for ns := range kept {
		if !lived[ns] {
			return true, nil
		}
	}
	return false, nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

func holds(dir string, dev uint64, lived, kept map[string]bool) (bool, error) {
	ns, err := os.Readlink(dir + "/ns/mnt")
	if err != nil {
		return false, err
	}
	lived[ns] = true
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	mounts, err := os.ReadFile(dir + "/mountinfo")
	if err != nil && !errors.Is(err, syscall.EINVAL) { // of a process that ends
		return false, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == number {
			return true, nil
		}
	}
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return false, err
	}
	mapped := fmt.Sprintf("%02x:%02x", unix.Major(dev), unix.Minor(dev))
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == mapped {
			return true, nil
		}
	}
	places := []string{dir + "/cwd", dir + "/root"}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return false, err
	}
	for _, fd := range fds {
		if _, err := strconv.Atoi(fd.Name()); err == nil {
			places = append(places, dir+"/fd/"+fd.Name())
		}
	}
	for _, place := range places {
		if target, err := os.Readlink(place); err == nil && strings.HasPrefix(target, "mnt:[") {
			kept[target] = true
		}
		var st unix.Stat_t
		if err := unix.Stat(place, &st); gone(err) {
			continue
		} else if err != nil {
			return false, fmt.Errorf("looking at %s: %w", place, err)
		}
		if st.Dev == dev || st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == dev {
			return true, nil
		}
	}
	return false, nil
}
