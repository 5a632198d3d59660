package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cloister/noded/pulse"

	"go.uber.org/zap"
)

// SocketPath is where the plugin looks for noded.
const SocketPath = "/run/cloister/noded.sock"

const (
	// RequestTimeout is how long a peer may take to send its request after it
	// connected. The plugin connects and sends at once.
	RequestTimeout = 5 * time.Second
	// Waiting is how many peers may be connected without having sent their
	// request; more wait in the listener's queue.
	Waiting = 64
	// Open is how many connections may be open in all: one for each step that
	// runs in a session on this node.
	Open = 1024
	// perSecond is how many connections are taken each second; Slurm starts
	// far fewer steps on a node.
	perSecond = 200
)

// Listen makes the socket, mode 0600, in place of one that is left over.
func Listen(path string) (*net.UnixListener, error) {
	if err := removeSocket(path); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	// bound under another name, so that nobody can connect before the mode is
	// set; umask would be the whole process's
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := removeSocket(hidden); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: hidden, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, path)); err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func removeSocket(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is not a socket", path)
	}
	return os.Remove(path)
}

// NewServer makes a server of a socket that systemd made
// (ListenSequentialPacket=, systemd.socket(5)). f stays the caller's.
func NewServer(f *os.File, log *zap.Logger) (*Server, error) {
	n, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listening on systemd's socket: %w", err)
	}
	l, ok := n.(*net.UnixListener)
	if !ok || l.Addr().Network() != "unixpacket" {
		n.Close()
		return nil, errors.New("listening on systemd's socket: not SOCK_SEQPACKET")
	}
	return New(l, log), nil
}

// A Server takes requests and gives each to a handler.
type Server struct {
	listener *net.UnixListener
	log      *zap.Logger
}

// New makes a server of a listener, which it closes at its end.
func New(l *net.UnixListener, log *zap.Logger) *Server {
	return &Server{listener: l, log: log}
}

// Serve takes connections until ctx ends, closes the listener and waits for
// the handlers, which see ctx end too. It returns nil in that case.
//
// The handler is called in a goroutine of its own with a request that is well
// formed. It gives the verdict; where it gives none, the step is refused. The
// connection is closed when it returns, so for an admitted step it returns
// after the end.
func (s *Server) Serve(ctx context.Context, handler func(context.Context, *Conn)) error {
	l := s.listener
	defer l.Close()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	waiting := make(chan struct{}, Waiting)
	open := make(chan struct{}, Open)
	for {
		if !enter(ctx, open) || !enter(ctx, waiting) {
			return nil
		}
		c, err := accept(ctx, l)
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("taking a connection: %w", err)
		}
		if err != nil { // out of descriptors, or a peer that left
			s.log.Error("taking a connection", zap.Error(err))
			<-waiting
			<-open
			pause(ctx, time.Second)
			continue
		}
		handlers.Go(func() {
			defer func() { <-open }()
			s.serve(ctx, c, handler, func() { <-waiting })
		})
		pause(ctx, time.Second/perSecond)
	}
}

// beat is how often the loop shows that it comes round while it has nothing to
// do (package pulse).
const beat = 5 * time.Second

func accept(ctx context.Context, l *net.UnixListener) (*net.UnixConn, error) {
	for {
		pulse.Beat(ctx)
		if err := l.SetDeadline(time.Now().Add(beat)); err != nil {
			return nil, err
		}
		c, err := l.AcceptUnix()
		if ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
	}
}

// enter takes a place, or reports that ctx ended first.
func enter(ctx context.Context, places chan struct{}) bool {
	for {
		pulse.Beat(ctx)
		select {
		case places <- struct{}{}:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(beat):
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// serve reads the request, calls arrived, and hands over to the handler.
func (s *Server) serve(ctx context.Context, u *net.UnixConn, handler func(context.Context, *Conn), arrived func()) {
	c, err := request(u)
	arrived()
	if err != nil {
		s.log.Warn("a request was sent away", zap.Error(err))
		u.Close()
		return
	}
	defer c.Close()
	handler(ctx, c)
	if c.undecided() {
		c.Refuse("refused in phase hand-off: cloister-noded gave no verdict", "next: tell the administrator")
	}
}

func request(u *net.UnixConn) (*Conn, error) {
	pid, err := rootPeer(u)
	if err != nil {
		return nil, err
	}
	if err := u.SetReadDeadline(time.Now().Add(RequestTimeout)); err != nil {
		return nil, err
	}
	datagram, files, err := receive(u)
	keep := false
	defer func() {
		if !keep {
			closeAll(files)
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("reading the request of process %d: %w", pid, err)
	}
	c := &Conn{unix: u, pid: pid}
	if err := c.take(datagram, files); err != nil {
		// the step's owner should see more than that nobody answers
		c.Refuse("refused in phase hand-off: cloister-noded does not understand the plugin: "+err.Error(),
			"next: tell the administrator")
		return nil, fmt.Errorf("reading the request of process %d: %w", pid, err)
	}
	keep = true
	return c, nil
}

func (c *Conn) take(datagram []byte, files []*os.File) error {
	l, err := parseLaunch(datagram)
	if err != nil {
		return err
	}
	want := 0
	if l.Batch() || l.Proof != "" {
		want = 1
	}
	if len(files) != want {
		return fmt.Errorf("%d descriptors where %d belong", len(files), want)
	}
	switch {
	case l.Batch():
		if err := checkScript(files[0]); err != nil {
			return err
		}
		l.Script = files[0]
	case want == 1:
		l.Claim = files[0] // checked by whoever reads it (package stepproof)
	}
	c.Request = *l
	return nil
}
