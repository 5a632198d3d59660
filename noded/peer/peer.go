// Package peer says who is at the other end of a unix socket.
package peer

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Credentials are those of the process that connected, at the time when it did
// (SO_PEERCRED, unix(7)). The process may have ended since.
func Credentials(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, fmt.Errorf("asking who is at the other end: %w", err)
	}
	return cred, nil
}
