package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"cloister/noded/peer"

	"golang.org/x/net/netutil"
)

// A Source is a daemon that can be asked.
type Source interface {
	Status() *Status
	// Retry tries a node again that was given up.
	Retry(ctx context.Context) *Recovery
	// Release ends the session that has the node.
	Release(ctx context.Context) *Recovery
}

// Bounds of the server: those who ask are few, and ask for little.
const (
	maxOpen   = 8
	maxHeader = 4 << 10 // bytes
	readLimit = 5 * time.Second
)

// Serve answers root's questions until ctx ends, and closes the listener.
func Serve(ctx context.Context, l *net.UnixListener, s Source) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) {
		b, err := s.Status().JSON()
		answer(w, "application/json", b, err)
	})
	for path, change := range map[string]func(context.Context) *Recovery{pathRecover: s.Retry, pathRelease: s.Release} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			// Half of it helps no one: it goes on when who asked goes away.
			b, err := json.Marshal(change(context.WithoutCancel(r.Context())))
			answer(w, "application/json", b, err)
		})
	}
	return serve(ctx, rootOnly{l}, mux)
}

// ServeMetrics answers whoever may open the listener's socket with numbers for
// Prometheus, until ctx ends, and closes the listener.
func ServeMetrics(ctx context.Context, l *net.UnixListener, s Source) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, "text/plain; version=0.0.4; charset=utf-8", s.Status().metrics(), nil)
	})
	return serve(ctx, l, mux)
}

func answer(w http.ResponseWriter, kind string, b []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(b) // who asked went away
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: http.MaxBytesHandler(h, 0), MaxHeaderBytes: maxHeader,
		ReadTimeout: readLimit, IdleTimeout: readLimit,
	}
	server.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.Serve(netutil.LimitListener(l, maxOpen))
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("answering questions about the node: %w", err)
}

// rootOnly closes everybody else's connections, whatever the socket's mode
// became.
type rootOnly struct{ *net.UnixListener }

func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if who, err := peer.Credentials(c); err == nil && who.Uid == 0 {
			return c, nil
		}
		c.Close()
	}
}
