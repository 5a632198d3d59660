package userfile

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// notUsers refuses a file or directory on a FUSE file system that a user mounted:
// its server is that user's program, and could keep waiting for ever whoever reads
// or closes what lies there, noded too.
func notUsers(look *os.File) error {
	// proc_pid_fdinfo(5); to ask the file itself would be to ask the server.
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", look.Fd()))
	if err != nil {
		return err
	}
	_, id, _ := strings.Cut(string(b), "\nmnt_id:\t")
	id, _, _ = strings.Cut(id, "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	users, err := usersMount(string(mounts), id)
	if err == nil && users {
		err = fmt.Errorf("it lies on a FUSE file system that a user mounted: %w", syscall.EPERM)
	}
	return err
}

// usersMount reads of one mount in proc_pid_mountinfo(5) whether a user mounted
// it: the kernel says user_id of each FUSE file system, 0 if root did.
func usersMount(mounts, id string) (bool, error) {
	for line := range strings.Lines(mounts) {
		first, _, _ := strings.Cut(line, " ")
		if first != id {
			continue
		}
		_, what, _ := strings.Cut(line, " - ")
		f := strings.Fields(what) // type, source, the file system's options
		if len(f) != 3 {
			return false, fmt.Errorf("%q is not a line of mountinfo", line)
		}
		fuse := f[0] == "fuse" || f[0] == "fuseblk" || strings.HasPrefix(f[0], "fuse.")
		return fuse && !slices.Contains(strings.Split(f[2], ","), "user_id=0"), nil
	}
	return false, errors.New("it lies on a mount that is not listed")
}
