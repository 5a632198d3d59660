package helper

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// holdVerb is the helper that does nothing but be in a user namespace while
// its maker opens that namespace.
const holdVerb = "hold-user-namespace"

// UserNamespace returns a descriptor of a fresh user namespace in which 0 is
// uid and gid, for idmapped mounts (mount_setattr(2)): a file of owner 0 in the
// mount then belongs to uid. No process stays in it. The caller needs
// CAP_SYS_ADMIN, and a service unit must not restrict user namespaces.
func UserNamespace(uid, gid uint32) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a user namespace: %w", err)
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path:  "/proc/self/exe",
		Args:  []string{argv0, holdVerb},
		Env:   []string{},
		Dir:   "/",
		Stdin: r,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(uid), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(gid), Size: 1}},
		},
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("starting a process in a user namespace: %w", err)
	}
	defer cmd.Wait()
	defer w.Close()
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	if err != nil {
		return nil, fmt.Errorf("opening a user namespace: %w", err)
	}
	return ns, nil
}

// hold waits until its maker is done or dead.
func hold() { io.Copy(io.Discard, os.Stdin) }
