//go:build linux && amd64

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Types of device requests: linux/dm-ioctl.h, linux/loop.h.
const (
	dmType   = 0xfd
	loopType = 0x4c
)

// describe names the call without the numbers that change from session to
// session, "" if it changes nothing, and the error that it might return.
func (s stop) describe() (name string, errno unix.Errno) {
	name, errno = s.raw()
	return plain(name), errno
}

var (
	session = regexp.MustCompile(`[0-9a-f]{32}`)
	numbers = regexp.MustCompile(`[0-9]{2,}|\b(loop|dm-|fd/)[0-9]+`)
	letters = regexp.MustCompile(`[^0-9]+`)
	// The view is put together below /tmp, of dozens of directories and mounts that differ by their paths alone.
	inView = regexp.MustCompile(`^(open_tree) .*|^([a-z_]+) /tmp(/[^.].*)?$`)
)

func plain(name string) string {
	name = session.ReplaceAllString(name, "SESSION")
	name = inView.ReplaceAllString(name, "$1$2 in the view")
	return numbers.ReplaceAllStringFunc(name, func(n string) string { return letters.FindString(n) + "N" })
}

func (s stop) raw() (string, unix.Errno) {
	switch s.regs.Orig_rax {
	case unix.SYS_MOUNT:
		return strings.Join(strings.Fields("mount "+s.text(s.arg(2))+" "+s.text(s.arg(1))), " "), unix.ENOMEM
	case unix.SYS_UMOUNT2:
		return "umount2 " + s.path(unix.AT_FDCWD, s.arg(0)), unix.EBUSY
	case unix.SYS_PIVOT_ROOT:
		return "pivot_root", unix.EBUSY
	case unix.SYS_MOVE_MOUNT:
		return "move_mount " + s.path(s.fd(2), s.arg(3)), unix.ENOMEM
	case unix.SYS_FSOPEN:
		return "fsopen " + s.text(s.arg(0)), unix.ENOMEM
	case unix.SYS_FSCONFIG:
		return "fsconfig create", unix.EIO
	case unix.SYS_FSMOUNT:
		return "fsmount", unix.ENOMEM
	case unix.SYS_OPEN_TREE:
		return "open_tree " + s.path(s.fd(0), s.arg(1)), unix.ENOMEM
	case unix.SYS_MOUNT_SETATTR:
		return "mount_setattr", unix.ENOMEM
	case unix.SYS_SETNS:
		return "setns", unix.EPERM
	case unix.SYS_UNSHARE:
		return "unshare" + namespaces(s.arg(0)), unix.ENOSPC
	case unix.SYS_CLONE:
		return "clone" + namespaces(s.arg(0)), unix.ENOSPC
	case unix.SYS_EXECVE:
		return s.execve(), unix.ENOMEM
	case unix.SYS_IOCTL:
		return s.ioctl()
	case unix.SYS_FCNTL:
		return "lock " + s.file(s.fd(0)), unix.ENOLCK
	case unix.SYS_CONNECT:
		return s.connect()
	case unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITE64:
		return s.write()
	case unix.SYS_OPENAT:
		return kept("make "+s.path(s.fd(0), s.arg(1)), unix.ENOSPC)
	case unix.SYS_RENAME:
		return "rename to " + s.path(unix.AT_FDCWD, s.arg(1)), unix.EIO
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return "rename to " + s.path(s.fd(2), s.arg(3)), unix.EIO
	case unix.SYS_UNLINK:
		return kept("unlink "+s.path(unix.AT_FDCWD, s.arg(0)), unix.EIO)
	case unix.SYS_UNLINKAT:
		return kept("unlink "+s.path(s.fd(0), s.arg(1)), unix.EIO)
	case unix.SYS_RMDIR:
		return "rmdir " + s.path(unix.AT_FDCWD, s.arg(0)), unix.EBUSY
	case unix.SYS_MKDIR:
		return "mkdir " + s.path(unix.AT_FDCWD, s.arg(0)), unix.ENOSPC
	case unix.SYS_MKDIRAT:
		return "mkdir " + s.path(s.fd(0), s.arg(1)), unix.ENOSPC
	case unix.SYS_MKNODAT:
		return "mknod " + s.path(s.fd(0), s.arg(1)), unix.ENOSPC
	case unix.SYS_SYMLINKAT:
		return "symlink " + s.path(s.fd(1), s.arg(2)), unix.ENOSPC
	case unix.SYS_LINKAT:
		return "link " + s.path(s.fd(2), s.arg(3)), unix.ENOSPC
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		return kept("sync "+s.file(s.fd(0)), unix.EIO)
	case unix.SYS_FTRUNCATE:
		return kept("truncate "+s.file(s.fd(0)), unix.EIO)
	case unix.SYS_FALLOCATE:
		return kept("allocate "+s.file(s.fd(0)), unix.ENOSPC)
	case unix.SYS_FCHOWN:
		return "chown " + s.file(s.fd(0)), unix.EIO
	case unix.SYS_FCHOWNAT:
		return "chown " + s.path(s.fd(0), s.arg(1)), unix.EIO
	case unix.SYS_FCHMOD:
		return "chmod " + s.file(s.fd(0)), unix.EIO
	case unix.SYS_FCHMODAT:
		return "chmod " + s.path(s.fd(0), s.arg(1)), unix.EIO
	case unix.SYS_FSETXATTR:
		return "setxattr " + s.file(s.fd(0)), unix.ENOSPC
	case unix.SYS_FREMOVEXATTR:
		return "removexattr " + s.file(s.fd(0)), unix.EIO
	case unix.SYS_KEYCTL:
		return keyOperations[s.arg(0)], unix.EDQUOT
	case unix.SYS_ADD_KEY:
		return "add_key " + s.text(s.arg(0)), unix.EDQUOT
	case unix.SYS_KILL, unix.SYS_PIDFD_SEND_SIGNAL:
		return "kill", unix.EPERM
	}
	return fmt.Sprintf("call %d", s.regs.Orig_rax), unix.EIO
}

// namespaces names what clone(2) and unshare(2) make apart.
func namespaces(flags uint64) (names string) {
	for _, f := range []struct {
		flag uint64
		name string
	}{{unix.CLONE_FS, " directories"}, {unix.CLONE_NEWNS, " mounts"}, {unix.CLONE_NEWIPC, " IPC"}, {unix.CLONE_NEWUSER, " users"}} {
		if flags&f.flag != 0 {
			names += f.name
		}
	}
	return names
}

// keyOperations are those of keyctl(2) that change something.
var keyOperations = map[uint64]string{
	unix.KEYCTL_JOIN_SESSION_KEYRING: "keyctl join session", unix.KEYCTL_UPDATE: "keyctl update", unix.KEYCTL_REVOKE: "keyctl revoke", unix.KEYCTL_CHOWN: "keyctl chown",
	unix.KEYCTL_SETPERM: "keyctl setperm", unix.KEYCTL_CLEAR: "keyctl clear", unix.KEYCTL_LINK: "keyctl link", unix.KEYCTL_UNLINK: "keyctl unlink",
	unix.KEYCTL_SET_TIMEOUT: "keyctl set timeout", unix.KEYCTL_INVALIDATE: "keyctl invalidate", unix.KEYCTL_GET_PERSISTENT: "keyctl get persistent",
}

// kept leaves out files that nothing lasting is in.
func kept(name string, errno unix.Errno) (string, unix.Errno) {
	_, path, _ := strings.Cut(name, " ")
	for _, gone := range []string{"/memfd:", "/dev/null", "pipe:", "anon_inode:", "/dev/urandom"} {
		if strings.HasPrefix(path, gone) {
			return "", 0
		}
	}
	return name, errno
}

func (s stop) execve() string {
	var argv [2]string
	for i := range argv {
		if b := s.memory(s.arg(1)+uint64(8*i), 8); len(b) == 8 {
			if at := binary.NativeEndian.Uint64(b); at != 0 {
				argv[i] = s.text(at)
				continue
			}
		}
		break
	}
	return "start " + programOf(argv[0], argv[1])
}

// dmRequests are those that change something, by their number
// (linux/dm-ioctl.h).
var dmRequests = map[uint64]string{
	1: "remove all", 3: "create", 4: "remove", 5: "rename", 6: "suspend or resume", 9: "load table", 10: "clear table", 14: "message",
}

// loopRequests are linux/loop.h's.
var loopRequests = map[uint64]string{0x00: "set fd", 0x01: "clear fd", 0x0a: "configure", 0x80: "add", 0x81: "remove", 0x82: "get free"}

func (s stop) ioctl() (string, unix.Errno) {
	number := s.arg(1) & 0xff
	if s.arg(1)>>8&0xff == loopType {
		if name := loopRequests[number]; name != "" {
			return "loop " + name, unix.EIO
		}
		return "", 0
	}
	name := dmRequests[number]
	if name == "" {
		return "", 0
	}
	// struct dm_ioctl: the name lies at 48. What follows the header is not read:
	// a table has a key in it.
	device, _, _ := bytes.Cut(s.memory(s.arg(2)+48, 128), []byte{0})
	return "dm " + name + " " + string(device), unix.ENOMEM
}

// methods that ask, and change nothing.
var asking = []string{"Hello", "AddMatch", "RemoveMatch", "Ping", "Introspect", "Subscribe", "Unsubscribe", "LoadUnit", "NameHasOwner", "ReadFile"}

func asks(method string) bool {
	return strings.HasPrefix(method, "Get") || strings.HasPrefix(method, "List") || slices.Contains(asking, method)
}
