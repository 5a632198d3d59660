package jobview

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/noded/jobview/detached"
)

// harmless are the devices that every program may have. What is mounted through
// /dev/fuse is seen only in a user namespace of the job.
var harmless = []string{"/dev/full", "/dev/fuse", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"}

// devLinks are the links that udev makes in every /dev (and /dev/ptmx, which
// must be that of the view's own devpts).
var devLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	"ptmx": "pts/ptmx",
}

// devices makes /dev. The file system itself is nodev: a device works only
// because the host's node is bound into it.
func (b *builder) devices() error {
	if err := b.empty("/dev"); err != nil {
		return err
	}
	for _, path := range slices.Concat(harmless, b.spec.Devices) {
		if err := b.device(path); err != nil {
			return err
		}
	}
	dev, err := b.root.open("/dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	for name, target := range devLinks {
		if err := unix.Symlinkat(target, int(dev.Fd()), name); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	for _, name := range []string{"mqueue", "pts", "shm"} {
		if err := unix.Mkdirat(int(dev.Fd()), name, 0o755); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	pts, err := b.root.cover("/dev/pts", "devpts", []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=" + strconv.Itoa(ttyGroup)}, detached.NoSuid|detached.NoExec)
	if err != nil {
		return err
	}
	pts.Close()
	queues, err := b.root.cover("/dev/mqueue", "mqueue", nil, detached.NoSuid|detached.NoDev|detached.NoExec)
	if err != nil {
		return err
	}
	return queues.Close()
}

// device binds one of the host's device nodes. A directory (/dev/infiniband)
// comes with what it has now. What the host lacks is left out.
func (b *builder) device(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parent := path
	if !info.IsDir() {
		parent = filepath.Dir(path)
	}
	d, err := b.root.ensure(parent, 0o755, 0, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	if !info.IsDir() {
		fd, err := unix.Openat(int(d.Fd()), strings.TrimPrefix(path, parent+"/"), unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
		if err != nil {
			return fmt.Errorf("making %s: %w", path, err)
		}
		unix.Close(fd)
	}
	return b.clone(path, path, false, detached.NoSuid|detached.NoExec)
}
