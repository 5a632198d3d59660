package helper

import (
	"net"
	"sync"
	"time"
)

// refillPause is how long nobody may have wanted a helper before new spares are
// started: a session takes several one after another, and the processor time
// that starting a process takes is its own.
var refillPause = 15 * time.Second

// A spare is a helper that was started and waits for its work.
type spare struct {
	conn *net.UnixConn
	kill func()
}

var spares struct {
	sync.Mutex
	wanted int
	idle   []spare
	refill *time.Timer
}

// Keep has n spares started, now and again whenever some were used. None are
// kept before it is called.
func Keep(n int) {
	spares.Lock()
	defer spares.Unlock()
	spares.wanted = n
	refillIn(0)
}

// refillIn has spares started after a pause. The lock is held.
func refillIn(pause time.Duration) {
	if spares.refill != nil {
		spares.refill.Stop()
	}
	spares.refill = time.AfterFunc(pause, func() {
		for {
			spares.Lock()
			full := len(spares.idle) >= spares.wanted
			spares.Unlock()
			if full {
				return
			}
			conn, kill, err := spawn()
			if err != nil {
				return // whoever needs one will see why
			}
			spares.Lock()
			spares.idle = append(spares.idle, spare{conn, kill})
			spares.Unlock()
		}
	})
}

// process is a helper that has got its start message: a spare, or one that is
// started now.
func process(first []byte) (*net.UnixConn, func(), error) {
	for {
		spares.Lock()
		if len(spares.idle) == 0 {
			spares.Unlock()
			break
		}
		s := spares.idle[0]
		spares.idle = spares.idle[1:]
		refillIn(refillPause)
		spares.Unlock()
		if _, _, err := s.conn.WriteMsgUnix(first, nil, nil); err == nil {
			return s.conn, s.kill, nil
		}
		s.conn.Close() // it died while it waited
		s.kill()
	}
	conn, kill, err := spawn()
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := conn.WriteMsgUnix(first, nil, nil); err != nil {
		conn.Close()
		kill()
		return nil, nil, err
	}
	return conn, kill, nil
}
