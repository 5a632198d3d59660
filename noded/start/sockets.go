package start

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"cloister/noded/status"

	"github.com/coreos/go-systemd/v22/activation"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// What systemd calls the descriptors of the socket units.
const (
	socketName  = "cloister-noded.socket"
	metricsName = "cloister-metrics.socket"
)

// sockets are what systemd hands over.
type sockets struct {
	launches *os.File
	// questions and metrics are nil where their sockets are not set up.
	questions, metrics *os.File
	// kept is what a predecessor left in systemd's store.
	kept []*os.File
}

func inherited() (sockets, error) {
	var s sockets
	for _, f := range activation.Files(true) {
		kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case f.Name() == socketName && err == nil && kind == unix.SOCK_SEQPACKET:
			s.launches = f
		case f.Name() == socketName && err == nil && kind == unix.SOCK_STREAM:
			s.questions = f
		case f.Name() == metricsName:
			s.metrics = f
		default:
			s.kept = append(s.kept, f)
		}
	}
	if s.launches == nil {
		return s, errors.New("no socket from systemd: start cloister-noded.socket first")
	}
	return s, nil
}

// answer serves those who ask about the node, until ctx ends.
func (s sockets) answer(ctx context.Context, from status.Source, log *zap.Logger) error {
	if s.questions == nil {
		log.Warn("cloister node status will not work: the socket unit has no stream socket")
	}
	for _, each := range []struct {
		file  *os.File
		serve func(context.Context, *net.UnixListener, status.Source) error
	}{{s.questions, status.Serve}, {s.metrics, status.ServeMetrics}} {
		if each.file == nil {
			continue
		}
		l, err := net.FileListener(each.file)
		if err != nil {
			return fmt.Errorf("answering questions about the node: %w", err)
		}
		each.file.Close()
		u, ok := l.(*net.UnixListener)
		if !ok || l.Addr().Network() != "unix" {
			l.Close()
			return errors.New("answering questions about the node: systemd's socket is not a stream socket of this machine")
		}
		u.SetUnlinkOnClose(false) // it is systemd's
		go func() {
			if err := each.serve(ctx, u, from); err != nil {
				log.Error("nobody is answered any more", zap.Error(err))
			}
		}()
	}
	return nil
}
