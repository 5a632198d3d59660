// Package helper runs one piece of work in a short-lived process of its own:
// this same binary, started again with a verb.
//
// It is for work that the daemon must not do itself: opening files with a
// user's rights (in Go, setuid changes every thread), anything that a dead
// file server can hang for ever, and anything that needs a user namespace of
// its own. A helper has a deadline; when that passes it is killed and the
// caller gets an error at once, even if the kernel cannot end the process yet.
//
// A few spares (Keep) are started ahead, so that nobody waits for a process to
// start: they have read nothing and done nothing when they get their one piece
// of work, and end with it as every helper does.
//
// It refuses to be a general way to run things: verbs are fixed when the
// program starts, requests and replies are one datagram, and a helper that is
// asked to act as a user has given up everything else before it reads the
// request.
package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// argv0 marks a process as a helper.
	argv0 = "cloister-noded-helper"
	// socketFD is where a helper finds its socket: exec.Cmd.ExtraFiles starts at 3.
	socketFD = 3
	// MaxMessage bounds a request and a reply, in bytes.
	MaxMessage = 64 << 10
	// MaxFiles bounds the descriptors of a request and of a reply.
	MaxFiles = 16
	// DefaultDeadline applies when the context has none.
	DefaultDeadline = 30 * time.Second
)

// ErrDeadline is wrapped by errors about a helper that did not answer in time.
var ErrDeadline = errors.New("no answer before the deadline")

// User is whose rights a helper acts with. Groups are the supplementary ones.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
}

// A Handler does one verb's work inside the helper. The files that it gets and
// returns are closed by the caller.
type Handler func(request []byte, files []*os.File) (reply any, out []*os.File, err error)

// A Verb is one kind of work. Verbs are package variables made by Register.
type Verb struct {
	name   string
	handle Handler
}

var verbs = map[string]*Verb{}

// Register makes a verb; call it while package variables are initialised.
func Register(name string, h Handler) *Verb {
	if verbs[name] != nil {
		panic("helper: verb registered twice: " + name)
	}
	v := &Verb{name: name, handle: h}
	verbs[name] = v
	return v
}

// An Error is what a handler returned, carried back over the socket with its
// errno, so that errors.Is(err, syscall.ENOENT) works for the caller.
type Error struct {
	Text  string
	Errno syscall.Errno
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the errno, if there was one.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// start is the first datagram, which the helper obeys before it reads the
// request. User nil: stay root.
type start struct {
	Verb string `json:"verb"`
	User *User  `json:"user"`
}

// answer is the helper's one datagram.
type answer struct {
	Error string          `json:"error,omitempty"`
	Errno int             `json:"errno,omitempty"`
	Reply json.RawMessage `json:"reply,omitempty"`
}

// Run does the verb's work in a helper process with the rights of user (nil:
// root's) and decodes its reply into reply. The returned files are the
// caller's to close. If ctx ends first, the helper is killed and the error
// wraps ErrDeadline; the process is reaped when the kernel lets it go.
func (v *Verb) Run(ctx context.Context, user *User, request any, files []*os.File, reply any) ([]*os.File, error) {
	out, err := v.run(ctx, user, request, files, reply)
	if err != nil {
		return nil, fmt.Errorf("helper %s: %w", v.name, err)
	}
	return out, nil
}

func (v *Verb) run(ctx context.Context, user *User, request any, files []*os.File, reply any) ([]*os.File, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(DefaultDeadline)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxMessage || len(files) > MaxFiles {
		return nil, fmt.Errorf("request of %d bytes and %d files is too large", len(body), len(files))
	}
	first, err := json.Marshal(start{v.name, user})
	if err != nil {
		return nil, err
	}
	conn, kill, err := process(first)
	if err != nil {
		return nil, err
	}
	defer kill()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetDeadline(deadline)
	if _, _, err := conn.WriteMsgUnix(body, rights(files), nil); err != nil {
		return nil, late(err)
	}
	data, out, err := receive(conn)
	if err != nil {
		return nil, late(err)
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		closeAll(out)
		return nil, fmt.Errorf("decoding the reply: %w", err)
	}
	if a.Error != "" {
		closeAll(out)
		return nil, &Error{a.Error, syscall.Errno(a.Errno)}
	}
	if reply != nil {
		if err := json.Unmarshal(a.Reply, reply); err != nil {
			closeAll(out)
			return nil, fmt.Errorf("decoding the reply: %w", err)
		}
	}
	return out, nil
}

// spawn starts the helper; kill, safe to call twice, ends it and reaps it in the
// background.
func spawn() (conn *net.UnixConn, kill func(), err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "helper socket")
	defer theirs.Close()
	if conn, err = unixConn(pair[0]); err != nil {
		return nil, nil, err
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{argv0},
		// An idle spare on huge pages takes twice the memory.
		Env:        []string{"GODEBUG=disablethp=1"},
		Dir:        "/",
		Stderr:     os.Stderr, // a crash of the helper is seen in the daemon's journal
		ExtraFiles: []*os.File{theirs},
	}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("starting the helper: %w", err)
	}
	return conn, sync.OnceFunc(func() {
		cmd.Process.Kill()
		go cmd.Wait() // a process stuck in the kernel must not hold up the caller
	}), nil
}

// late names the deadline as the cause, rather than the socket's time-out, and
// a helper that died rather than an end of file.
func late(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrDeadline
	}
	return err
}
