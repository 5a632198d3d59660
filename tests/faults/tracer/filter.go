//go:build linux && amd64

package main

import (
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// picked are the calls that stop a traced process. A condition is on the low
// 32 bits of an argument: a call stops if argument & mask == value for one of
// the conditions, or if there is none.
var picked = map[uint32][]condition{
	unix.SYS_MOUNT: nil, unix.SYS_UMOUNT2: nil, unix.SYS_PIVOT_ROOT: nil, unix.SYS_MOVE_MOUNT: nil, unix.SYS_FSOPEN: nil,
	unix.SYS_FSMOUNT: nil, unix.SYS_MOUNT_SETATTR: nil, unix.SYS_SETNS: nil, unix.SYS_UNSHARE: nil,
	unix.SYS_OPEN_TREE: {{2, unix.OPEN_TREE_CLONE, unix.OPEN_TREE_CLONE}},
	unix.SYS_FSCONFIG:  {{1, ^uint32(0), unix.FSCONFIG_CMD_CREATE}},
	unix.SYS_CLONE: {
		{0, unix.CLONE_NEWUSER, unix.CLONE_NEWUSER}, {0, unix.CLONE_NEWNS, unix.CLONE_NEWNS}, {0, unix.CLONE_NEWIPC, unix.CLONE_NEWIPC},
	},
	unix.SYS_EXECVE: nil,
	// The type of a device's requests is in the second byte (ioctl(2)).
	unix.SYS_IOCTL: {{1, 0xff00, dmType << 8}, {1, 0xff00, loopType << 8}},
	unix.SYS_FCNTL: {{1, ^uint32(0), unix.F_OFD_SETLK}},

	unix.SYS_CONNECT: nil, unix.SYS_SENDTO: nil, unix.SYS_SENDMSG: nil, unix.SYS_WRITE: nil, unix.SYS_WRITEV: nil, unix.SYS_PWRITE64: nil,
	unix.SYS_OPENAT: {{2, unix.O_CREAT, unix.O_CREAT}, {2, unix.O_TRUNC, unix.O_TRUNC}},
	unix.SYS_RENAME: nil, unix.SYS_RENAMEAT: nil, unix.SYS_RENAMEAT2: nil, unix.SYS_UNLINK: nil, unix.SYS_UNLINKAT: nil,
	unix.SYS_MKDIR: nil, unix.SYS_MKDIRAT: nil, unix.SYS_RMDIR: nil, unix.SYS_MKNODAT: nil, unix.SYS_SYMLINKAT: nil, unix.SYS_LINKAT: nil,
	unix.SYS_FSYNC: nil, unix.SYS_FDATASYNC: nil, unix.SYS_FTRUNCATE: nil, unix.SYS_FALLOCATE: nil,
	unix.SYS_FCHOWN: nil, unix.SYS_FCHOWNAT: nil, unix.SYS_FCHMOD: nil, unix.SYS_FCHMODAT: nil, unix.SYS_FSETXATTR: nil, unix.SYS_FREMOVEXATTR: nil,
	unix.SYS_KEYCTL: nil, unix.SYS_ADD_KEY: nil, unix.SYS_KILL: nil, unix.SYS_PIDFD_SEND_SIGNAL: nil,
}

type condition struct {
	argument    uint32
	mask, value uint32
}

// filter is the seccomp program (seccomp(2), struct seccomp_data) for picked.
func filter() []unix.SockFilter {
	const (
		load, equal, and, ret   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		number, arch, arguments = 0, 4, 16 // offsets
		allow, trace            = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_TRACE
	)
	p := []unix.SockFilter{
		{Code: load, K: arch}, {Code: equal, K: unix.AUDIT_ARCH_X86_64, Jt: 1}, {Code: ret, K: allow},
	}
	for nr, conditions := range picked {
		p = append(p, unix.SockFilter{Code: load, K: number})
		if conditions == nil {
			p = append(p, unix.SockFilter{Code: equal, K: nr, Jf: 1}, unix.SockFilter{Code: ret, K: trace})
			continue
		}
		p = append(p, unix.SockFilter{Code: equal, K: nr, Jf: uint8(4*len(conditions) + 1)})
		for _, c := range conditions {
			p = append(p, unix.SockFilter{Code: load, K: arguments + 8*c.argument}, unix.SockFilter{Code: and, K: c.mask},
				unix.SockFilter{Code: equal, K: c.value, Jf: 1}, unix.SockFilter{Code: ret, K: trace})
		}
		p = append(p, unix.SockFilter{Code: ret, K: allow})
	}
	return append(p, unix.SockFilter{Code: ret, K: allow})
}

// become has the server trace this process and turns it into a program. Its
// number, its descriptors and its environment stay: systemd sees no difference.
func become(args []string) error {
	if _, err := ask(request{Register: true}); err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("installing the filter: %w", errno)
	}
	return unix.Exec(args[0], args, os.Environ())
}

func peer(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}
