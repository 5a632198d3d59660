package server

import (
	"net"
	"sync"

	"go.uber.org/zap"
)

// perAddress closes at once what comes from an address that has max connections
// open already, or from a network with connsPerNetwork times as many, so that one host
// cannot take all that there are.
type perAddress struct {
	net.Listener
	max int
	log *zap.Logger

	mu   sync.Mutex
	open map[string]int // one without any is not in it
}

func (l *perAddress) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := originOf(c.RemoteAddr().String())
		if l.take(from) {
			return &counted{Conn: c, end: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		c.Close()
	}
}

func (l *perAddress) take(from origin) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from.address] >= l.max || l.open[from.network] >= connsPerNetwork*l.max {
		return false
	}
	l.add(from.address, l.max)
	if from.network != "" {
		l.add(from.network, connsPerNetwork*l.max)
	}
	return true
}

func (l *perAddress) add(from string, most int) {
	if l.open[from]++; l.open[from] == most {
		l.log.Warn("an address or network has all the connections that it may have", zap.String("from", from))
	}
}

func (l *perAddress) leave(from origin) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range []string{from.address, from.network} {
		if l.open[f]--; l.open[f] <= 0 {
			delete(l.open, f)
		}
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
