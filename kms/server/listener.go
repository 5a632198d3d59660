package server

import (
	"net"
	"sync"

	"go.uber.org/zap"
)

// perAddress closes at once what comes from an address that has max connections
// open already, so that one host cannot take all that there are.
type perAddress struct {
	net.Listener
	max int
	log *zap.Logger

	mu   sync.Mutex
	open map[string]int // an address without any is not in it
}

func (l *perAddress) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := host(c.RemoteAddr().String())
		if l.take(from) {
			return &counted{Conn: c, end: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		c.Close()
	}
}

func (l *perAddress) take(from string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= l.max {
		return false
	}
	l.open[from]++
	if l.open[from] == l.max {
		l.log.Warn("an address has all the connections that it may have", zap.String("from", from))
	}
	return true
}

func (l *perAddress) leave(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

type counted struct {
	net.Conn
	end func()
}

func (c *counted) Close() error {
	defer c.end()
	return c.Conn.Close()
}
