package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WriteTimeout bounds how long an answer may wait for room in the socket.
const WriteTimeout = 5 * time.Second

// A Conn is one step's connection. Its methods may be called from several
// goroutines; only the first verdict is sent.
type Conn struct {
	// Request is what was asked; zero on a connection that was adopted.
	Request Request

	unix *net.UnixConn
	pid  int

	mu       sync.Mutex
	decided  bool
	answered bool // the end, that is: nobody has to read it again
}

// PID is slurmstepd's process number when it connected. The process may have
// ended since, and the number may be another's.
func (c *Conn) PID() int { return c.pid }

// Admit sends the step into the job view. When it fails because the admission
// is not one that the plugin would take, nothing was sent and the step can
// still be refused.
func (c *Conn) Admit(a Admission) error {
	datagram, err := a.encode()
	if err != nil {
		return fmt.Errorf("admitting a step: %w", err)
	}
	rights := unix.UnixRights(int(a.MountNS.Fd()), int(a.IPCNS.Fd()))
	return c.verdict("admitting a step", datagram, rights)
}

// Join sends a proven step into the view of its session, with this working
// directory. The files stay the caller's.
func (c *Conn) Join(cwd string, mountNS, ipcNS *os.File) error {
	if err := checkPath(cwd); err != nil {
		return fmt.Errorf("joining a step to its session: the working directory: %w", err)
	}
	w := newWriter()
	w.put("verdict", "join")
	w.put("cwd", cwd)
	return c.verdict("joining a step to its session", w.buf.Bytes(), unix.UnixRights(int(mountNS.Fd()), int(ipcNS.Fd())))
}

// Refuse tells why the step must not run: one line for each message, of which
// there must be one.
func (c *Conn) Refuse(messages ...string) error {
	if len(messages) == 0 {
		return errors.New("refusing a step without a reason")
	}
	return c.verdict("refusing a step", encodeVerdict("refuse", messages), nil)
}

// Pass lets an ordinary step run as if there were no plugin.
func (c *Conn) Pass() error {
	return c.verdict("letting a step pass", encodeVerdict("pass", nil), nil)
}

func (c *Conn) verdict(doing string, datagram, rights []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.decided {
		return fmt.Errorf("%s: it has its verdict already", doing)
	}
	if err := c.send(datagram, rights); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	c.decided = true
	return nil
}

func (c *Conn) undecided() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.decided
}

func (c *Conn) send(datagram, rights []byte) error {
	if err := c.unix.SetWriteDeadline(time.Now().Add(WriteTimeout)); err != nil {
		return err
	}
	_, _, err := c.unix.WriteMsgUnix(datagram, rights, nil)
	return err
}

// WaitEnd waits until the step ends or slurmstepd dies. It may be called
// before the verdict, to notice a slurmstepd that dies while it waits. When
// ctx ends first, it returns ctx's cause: then the step may still run, and a
// later noded can go on with it (see File and Adopt).
//
// The message stays in the socket until it is answered: slurmstepd says it once,
// and a noded that ends before it has undone the session leaves it to the next.
func (c *Conn) WaitEnd(ctx context.Context) (End, error) {
	if err := c.unix.SetReadDeadline(time.Time{}); err != nil {
		return End{Died: true}, nil
	}
	stop := context.AfterFunc(ctx, func() { c.unix.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	datagram, err := peek(c.unix)
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return End{}, context.Cause(ctx)
	}
	if err != nil {
		return End{Died: true}, nil
	}
	e, err := parseEnd(datagram)
	if err != nil {
		return End{Died: true}, nil
	}
	return e, nil
}

// Released answers an [End]: nothing of the session is left on this node.
func (c *Conn) Released(messages ...string) error {
	return c.answerEnd("released", messages)
}

// Fenced answers an [End]: the node could not be cleaned and stays locked.
func (c *Conn) Fenced(messages ...string) error {
	return c.answerEnd("fenced", messages)
}

func (c *Conn) answerEnd(verdict string, messages []string) error {
	if err := c.send(encodeVerdict(verdict, messages), nil); err != nil {
		return fmt.Errorf("answering a step's end: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
	return nil
}

// File duplicates the connection, for systemd's file descriptor store. The
// plugin sees the connection end only when every copy is closed.
func (c *Conn) File() (*os.File, error) {
	f, err := c.duplicate()
	if err != nil {
		return nil, fmt.Errorf("duplicating a step's connection: %w", err)
	}
	return f, nil
}

// duplicate puts the socket in the place of a file that package os takes for a
// blocking one. Else its Fd method would make the socket block, and with it
// this connection, whose reads could then not be ended any more.
func (c *Conn) duplicate() (*os.File, error) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "lifeline")
	raw, err := c.unix.SyscallConn()
	if err == nil {
		if e := raw.Control(func(sock uintptr) { err = unix.Dup3(int(sock), fd, unix.O_CLOEXEC) }); e != nil {
			err = e
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close ends the connection and closes the request's file. It may be called twice.
func (c *Conn) Close() error {
	for _, f := range []*os.File{c.Request.Script, c.Request.Claim} {
		if f != nil {
			f.Close()
		}
	}
	c.mu.Lock()
	answered := c.answered
	c.mu.Unlock()
	if answered { // or the kernel takes the answer from a slurmstepd that has not read it yet
		discard(c.unix)
	}
	return c.unix.Close()
}

// Adopt makes a connection of a descriptor that File gave to an earlier noded,
// after the verdict. f stays the caller's.
func Adopt(f *os.File) (*Conn, error) {
	n, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("adopting a step's connection: %w", err)
	}
	u, ok := n.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unixpacket" {
		n.Close()
		return nil, errors.New("adopting a step's connection: not a SOCK_SEQPACKET socket")
	}
	pid, err := rootPeer(u)
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("adopting a step's connection: %w", err)
	}
	return &Conn{unix: u, pid: pid, decided: true}, nil
}
