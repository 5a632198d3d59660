package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rings are the keyrings that a process can name (keyrings(7)).
var rings = map[string]int{"session": unix.KEY_SPEC_SESSION_KEYRING, "user": unix.KEY_SPEC_USER_KEYRING, "user-session": unix.KEY_SPEC_USER_SESSION_KEYRING}

// key leaves a key in a keyring, or finds it there: key leave|find RING NAME.
// find prints what the key holds, nothing if there is none.
func key(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: key leave|find RING NAME")
	}
	ring, ok := rings[args[1]]
	if args[1] == "persistent" {
		const getPersistent = 22 // KEYCTL_GET_PERSISTENT
		id, err := unix.KeyctlInt(getPersistent, -1, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil {
			return err
		}
		ring, ok = id, true
	}
	if !ok {
		return fmt.Errorf("no keyring %q", args[1])
	}
	if args[1] != "session" {
		// As pam_keyinit(8) does at a login: who possesses a keyring may do
		// more with what is in it.
		if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, ring, unix.KEY_SPEC_SESSION_KEYRING, 0, 0); err != nil {
			return err
		}
	}
	if args[0] == "leave" {
		id, err := unix.AddKey("user", args[2], []byte("left by a job"), ring)
		if err != nil {
			return err
		}
		return unix.KeyctlSetperm(id, 0x3f3f3f3f) // whoever finds it may read it
	}
	id, err := unix.KeyctlSearch(ring, "user", args[2], 0)
	if errors.Is(err, unix.ENOKEY) || errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, b, len(b))
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", b[:n])
	return err
}

// queue leaves a message in a POSIX queue, or takes it out: queue leave|find
// NAME. find prints the message.
func queue(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: queue leave|find NAME")
	}
	flags := unix.O_RDWR | unix.O_NONBLOCK
	if args[0] == "leave" {
		flags |= unix.O_CREAT
	}
	name, err := unix.BytePtrFromString(args[1])
	if err != nil {
		return err
	}
	unix.Umask(0)
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), uintptr(flags), 0o666, 0, 0, 0)
	if errno == unix.ENOENT {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("mq_open: %w", errno)
	}
	b := make([]byte, 8192) // the default of /proc/sys/fs/mqueue/msgsize_max
	if args[0] == "leave" {
		n := copy(b, "left by a job")
		if _, _, errno = unix.Syscall6(unix.SYS_MQ_TIMEDSEND, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(n), 0, 0, 0); errno != 0 {
			return fmt.Errorf("mq_send: %w", errno)
		}
		return nil
	}
	n, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDRECEIVE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	if errno == unix.EAGAIN {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("mq_receive: %w", errno)
	}
	_, err = fmt.Printf("%s\n", b[:n])
	return err
}

// socket answers on an abstract socket (unix(7)), or asks one, or asks all
// that this network namespace shows: socket leave|find NAME, socket all.
func socket(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "leave":
		l, err := net.Listen("unix", "@"+args[1])
		if err != nil {
			return err
		}
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			io.WriteString(c, "left by a job\n")
			c.Close()
		}
	case len(args) == 2 && args[0] == "find":
		c, err := net.DialTimeout("unix", "@"+args[1], patience)
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = io.Copy(os.Stdout, c)
		return err
	case len(args) == 1 && args[0] == "all":
		b, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 8 || !strings.HasPrefix(f[7], "@") {
				continue
			}
			for _, kind := range []string{"unix", "unixpacket", "unixgram"} {
				if c, err := net.DialTimeout(kind, f[7], time.Second); err == nil {
					fmt.Println(kind, f[7])
					c.Close()
				}
			}
		}
		return nil
	}
	return errors.New("usage: socket leave|find NAME, socket all")
}
