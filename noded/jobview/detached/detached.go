// Package detached makes mounts that are attached nowhere yet: they exist only
// as long as their descriptor, no process can see them, and the caller puts
// them where it wants, in whatever mount namespace it is then in.
package detached

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// Attributes of a mount (mount_setattr(2)), to be or-ed.
const (
	ReadOnly = unix.MOUNT_ATTR_RDONLY
	NoSuid   = unix.MOUNT_ATTR_NOSUID
	NoDev    = unix.MOUNT_ATTR_NODEV
	NoExec   = unix.MOUNT_ATTR_NOEXEC
	NoAtime  = unix.MOUNT_ATTR_NOATIME
)

// New mounts a file system of the type. An option "name=value" is a parameter,
// "name" a flag; "source=" names the device. attrs are attributes of the
// mount. The kernel's own words go into the error.
func New(fstype string, options []string, attrs int) (*os.File, error) {
	m, err := mount(fstype, options, attrs)
	if err != nil {
		return nil, fmt.Errorf("mounting %s: %w", fstype, err)
	}
	return m, nil
}

func mount(fstype string, options []string, attrs int) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	for _, o := range options {
		if name, value, ok := strings.Cut(o, "="); ok {
			err = unix.FsconfigSetString(fs, name, value)
		} else {
			err = unix.FsconfigSetFlag(fs, o)
		}
		if err != nil {
			return nil, fmt.Errorf("option %s: %w", o, said(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, said(fs, err)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, said(fs, err)
	}
	return os.NewFile(uintptr(m), fstype+" mount"), nil
}

// said adds the messages that wait in the file system context: lines that
// begin with "e " (fsopen(2)).
func said(fs int, err error) error {
	buf := make([]byte, 512)
	for {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 {
			return err
		}
		if text, ok := strings.CutPrefix(string(buf[:n]), "e "); ok {
			err = fmt.Errorf("%w (%s)", err, strings.TrimSpace(text))
		}
	}
}

// Clone copies the mount that f lies on, cut down to f itself: a bind mount of
// the file or directory. recursive takes the mounts below with it. f's mount
// must be in the caller's mount namespace.
func Clone(f *os.File, recursive bool, attrs int) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(f.Fd()), "", flags)
	if err != nil {
		return nil, fmt.Errorf("cloning the mount of %s: %w", f.Name(), err)
	}
	m := os.NewFile(uintptr(fd), f.Name())
	if err := Set(m, recursive, attrs); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Set adds attributes to a mount and makes it private.
func Set(m *os.File, recursive bool, attrs int) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: uint64(attrs), Propagation: unix.MS_PRIVATE}
	if mutant.Removed(mutant.PrivateMounts) {
		attr.Propagation = unix.MS_SLAVE
	}
	if attrs&NoAtime != 0 {
		attr.Attr_clr = unix.MOUNT_ATTR__ATIME // the three atime modes exclude each other
	}
	if err := unix.MountSetattr(int(m.Fd()), "", flags, &attr); err != nil {
		return fmt.Errorf("setting attributes of the mount %s: %w", m.Name(), err)
	}
	return nil
}

// Owner maps uid 0 and gid 0 inside a detached mount to what userns maps them
// to. Other owners inside have no counterpart outside.
func Owner(m, userns *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mapping the owner of the mount %s: %w", m.Name(), err)
	}
	return nil
}

// Attach puts m on the file or directory that target (an O_PATH descriptor is
// enough) stands for.
func Attach(m, target *os.File) error {
	err := unix.MoveMount(int(m.Fd()), "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("attaching a mount to %s: %w (is the mount attached already?)", target.Name(), err)
	}
	if err != nil {
		return fmt.Errorf("attaching a mount to %s: %w", target.Name(), err)
	}
	return nil
}
