//go:build linux && amd64

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	kmsPort       = 8200 // in the test cluster's policy
	notifyPath    = "/run/systemd/notify"
	handoffPath   = "/run/cloister/noded.sock"
	busPath       = "/run/dbus/system_bus_socket"
	managerSocket = "/run/systemd/private"
)

// connect names the connections that matter; others, to name servers and the
// like, are questions.
func (s stop) connect() (string, unix.Errno) {
	switch to := address(s.memory(s.arg(1), int(min(s.arg(2), 128)))); {
	case to == busPath || to == managerSocket || strings.HasPrefix(to, "port "):
		return "connect to " + peerName(to), unix.ECONNREFUSED
	default:
		return "", 0
	}
}

// address reads a sockaddr: a path, or "port N".
func address(b []byte) string {
	if len(b) < 4 {
		return ""
	}
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_UNIX:
		path, _, _ := bytes.Cut(b[2:], []byte{0})
		return strings.Replace(string(path), "/var/run/", "/run/", 1)
	case unix.AF_INET, unix.AF_INET6:
		return fmt.Sprintf("port %d", binary.BigEndian.Uint16(b[2:]))
	}
	return ""
}

func peerName(to string) string {
	switch to {
	case busPath:
		return "D-Bus"
	case managerSocket:
		return "systemd"
	case fmt.Sprintf("port %d", kmsPort):
		return "the KMS"
	}
	return to
}

// write names what is written to a descriptor by any of the calls that do so.
func (s stop) write() (string, unix.Errno) {
	fd := s.fd(0)
	file := s.file(fd)
	if !strings.HasPrefix(file, "socket:") {
		return kept("write "+file, unix.ENOSPC)
	}
	data, size, to := s.message()
	kind, err := s.socket(fd)
	if err != nil {
		return "", 0
	}
	if to == "" {
		to = kind.peer
	}
	// Contents are read only where they have no secrets: never what goes to the
	// KMS or to a helper.
	switch {
	case kind.family == unix.AF_NETLINK:
		return netlink(kind.protocol, s.memory(data, min(size, 1<<16)))
	case kind.family == unix.AF_INET || kind.family == unix.AF_INET6:
		return "send to " + peerName(to), unix.ECONNRESET
	case to == busPath || to == managerSocket:
		method := dbusMethod(s.memory(data, min(size, 1<<12)))
		if method == "" || asks(method) {
			return "", 0
		}
		return "D-Bus " + method, unix.EPIPE
	case to == notifyPath:
		first, _, _ := bytes.Cut(s.memory(data, min(size, 256)), []byte("="))
		switch what := string(first); what {
		case "FDSTORE", "FDSTOREREMOVE":
			return "notify " + what, unix.ENOBUFS
		}
	case kind.local == handoffPath:
		return "answer to slurmstepd", unix.EPIPE
	}
	return "", 0
}

// message is where the first bytes that the call sends lie, how many there
// are, and to which address.
func (s stop) message() (data uint64, size int, to string) {
	switch s.regs.Orig_rax {
	case unix.SYS_SENDMSG: // struct msghdr: name, namelen, iov, iovlen
		h := s.memory(s.arg(1), 32)
		if len(h) < 32 {
			return 0, 0, ""
		}
		to = address(s.memory(binary.NativeEndian.Uint64(h), int(min(binary.NativeEndian.Uint32(h[8:]), 128))))
		return s.vector(binary.NativeEndian.Uint64(h[16:]), to)
	case unix.SYS_WRITEV:
		return s.vector(s.arg(1), "")
	case unix.SYS_SENDTO:
		to = address(s.memory(s.arg(4), int(min(s.arg(5), 128))))
	}
	return s.arg(1), int(s.arg(2)), to
}

func (s stop) vector(at uint64, to string) (uint64, int, string) {
	v := s.memory(at, 16)
	if len(v) < 16 {
		return 0, 0, to
	}
	return binary.NativeEndian.Uint64(v), int(binary.NativeEndian.Uint64(v[8:])), to
}

type socketKind struct {
	family, protocol int
	local, peer      string
}

// socket asks the kernel about a descriptor of the stopped process.
func (s stop) socket(fd int) (k socketKind, err error) {
	process, err := unix.PidfdOpen(s.t.process(s.tid), 0)
	if err != nil {
		return k, err
	}
	defer unix.Close(process)
	own, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return k, err
	}
	defer unix.Close(own)
	if k.family, err = unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return k, err
	}
	if k.protocol, err = unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil {
		return k, err
	}
	if a, err := unix.Getsockname(own); err == nil {
		k.local = end(a)
	}
	if a, err := unix.Getpeername(own); err == nil {
		k.peer = end(a)
	}
	return k, nil
}

func end(a unix.Sockaddr) string {
	switch a := a.(type) {
	case *unix.SockaddrUnix:
		return a.Name
	case *unix.SockaddrInet4:
		return fmt.Sprintf("port %d", a.Port)
	case *unix.SockaddrInet6:
		return fmt.Sprintf("port %d", a.Port)
	}
	return ""
}

// nftMessages are those that change something (linux/netfilter/nf_tables.h).
var nftMessages = map[uint16]string{
	unix.NFT_MSG_NEWTABLE: "new table", unix.NFT_MSG_DELTABLE: "delete table", unix.NFT_MSG_NEWCHAIN: "new chain", unix.NFT_MSG_DELCHAIN: "delete chain",
	unix.NFT_MSG_NEWRULE: "new rule", unix.NFT_MSG_DELRULE: "delete rule", unix.NFT_MSG_NEWSET: "new set", unix.NFT_MSG_DELSET: "delete set",
	unix.NFT_MSG_NEWSETELEM: "new element", unix.NFT_MSG_DELSETELEM: "delete element",
}

// netlink names what a message, or a batch of them, changes: the kinds in the
// order in which they first come.
func netlink(protocol int, b []byte) (string, unix.Errno) {
	const (
		header  = 16 // struct nlmsghdr: length, type, flags, sequence, port
		destroy = 21 // SOCK_DESTROY, linux/sock_diag.h
	)
	var kinds []string
	for len(b) >= header {
		n, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
		name := ""
		switch {
		case protocol == unix.NETLINK_NETFILTER && kind>>8 == unix.NFNL_SUBSYS_NFTABLES:
			name = nftMessages[kind&0xff]
		case protocol == unix.NETLINK_SOCK_DIAG && kind == destroy:
			name = "end a connection"
		}
		if name != "" && !strings.Contains(strings.Join(kinds, ","), name) {
			kinds = append(kinds, name)
		}
		if n < header {
			break
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	if len(kinds) == 0 {
		return "", 0
	}
	if protocol == unix.NETLINK_NETFILTER {
		return "nftables " + strings.Join(kinds, ", "), unix.ENOBUFS
	}
	return "sock_diag " + kinds[0], unix.EPERM
}

// dbusMethod is the member that a method call names, "" for anything else (the
// D-Bus specification, "Message format"; little-endian ones alone are sent here).
func dbusMethod(b []byte) string {
	const call, member = 1, 3
	if len(b) < 16 || b[0] != 'l' || b[1] != call {
		return ""
	}
	fields := b[16:min(len(b), 16+int(binary.LittleEndian.Uint32(b[12:])))]
	for at := 0; at+4 <= len(fields); at = (at + 7) &^ 7 { // each field is a structure, aligned to 8
		code, signature := fields[at], fields[at+1:]
		if len(signature) < 3 || signature[0] != 1 {
			return ""
		}
		at += 4 // the code, and a signature of one letter with its length and its end
		switch signature[1] {
		case 's', 'o':
			at = (at + 3) &^ 3
			if at+4 > len(fields) {
				return ""
			}
			n := int(binary.LittleEndian.Uint32(fields[at:]))
			at += 4
			if n < 0 || at+n > len(fields) {
				return ""
			}
			if code == member {
				return string(fields[at : at+n])
			}
			at += n + 1
		case 'g':
			if at >= len(fields) {
				return ""
			}
			at += int(fields[at]) + 2
		case 'u':
			at = (at+3)&^3 + 4
		default:
			return ""
		}
	}
	return ""
}
