package handoff

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"cloister/mutant"
	"cloister/noded/peer"

	"golang.org/x/sys/unix"
)

// The kernel passes at most this many descriptors at once (SCM_MAX_FD, see
// unix(7)); with room for all of them none can be lost unseen.
const descriptorsMax = 253

var errHungUp = errors.New("the peer hung up")

// receive reads one datagram and every descriptor that comes with it. The
// caller closes the files, also when there is an error.
func receive(c *net.UnixConn) ([]byte, []*os.File, error) {
	buf := make([]byte, DatagramMax)
	oob := make([]byte, unix.CmsgSpace(4*descriptorsMax))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	files, bad := descriptors(oob[:oobn])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return nil, files, errHungUp
	case err != nil:
		return nil, files, err
	case bad != nil:
		return nil, files, bad
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, files, fmt.Errorf("a datagram of more than %d bytes or %d descriptors", DatagramMax, descriptorsMax)
	}
	return buf[:n], files, nil
}

// peek waits for a datagram and leaves it in the socket. One with descriptors is
// an error: without room for them the kernel hands none over.
func peek(c *net.UnixConn) ([]byte, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, DatagramMax)
	n, flags := 0, 0
	if e := raw.Read(func(fd uintptr) bool {
		for {
			if n, _, flags, _, err = unix.Recvmsg(int(fd), buf, nil, unix.MSG_PEEK); err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}); e != nil {
		return nil, e
	}
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errHungUp
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, fmt.Errorf("a datagram of more than %d bytes, or with descriptors", DatagramMax)
	}
	return buf[:n], nil
}

// discard takes what is in the socket out of it, for the kernel tells a peer
// whose message was not read of that (ECONNRESET), in place of what was sent to
// it. It does not wait for whoever peeks, so it does not read like others do.
func discard(c *net.UnixConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for {
			n, _, _, _, err := unix.Recvmsg(int(fd), make([]byte, 1), nil, unix.MSG_DONTWAIT)
			if err != nil && err != unix.EINTR || err == nil && n == 0 {
				return
			}
		}
	})
}

// descriptors wraps what SCM_RIGHTS brought; they are close-on-exec already
// (package net receives with MSG_CMSG_CLOEXEC).
func descriptors(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("reading control messages: %w", err)
	}
	var files []*os.File
	for _, m := range list {
		fds, e := unix.ParseUnixRights(&m)
		if e != nil {
			err = fmt.Errorf("a control message that is not of descriptors: %w", e)
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// checkScript refuses all but an ordinary file that is open for reading only.
func checkScript(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("looking at the script: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("the script is not an ordinary file")
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("looking at the script: %w", err)
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_PATH != 0 {
		return errors.New("the script is not open for reading only")
	}
	return nil
}

// rootPeer returns the process at the other end, which must be root's.
func rootPeer(c *net.UnixConn) (pid int, err error) {
	cred, err := peer.Credentials(c)
	if err != nil {
		return 0, err
	}
	if cred.Uid != 0 && !mutant.Removed(mutant.SocketRootOnly) {
		return 0, fmt.Errorf("uid %d is at the other end, not root", cred.Uid)
	}
	return int(cred.Pid), nil
}
