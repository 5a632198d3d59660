package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// callTimeout is how long the agent may take over one call. A call only starts or asks; but an
// emulated guest on a busy host can stand still for seconds.
const callTimeout = 60 * time.Second

// An agent speaks to qemu-ga in one guest (QEMU's docs/interop/qemu-ga.rst) over a virtio-serial port:
// no network is involved. Calls are short and take turns; the connection is kept.
type agent struct {
	path string

	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

// An agentError is the guest's own answer that it could not do what was asked.
type agentError struct{ desc string }

func (e *agentError) Error() string { return e.desc }

func (a *agent) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop()
}

func (a *agent) drop() {
	if a.conn != nil {
		a.conn.Close()
		a.conn, a.in = nil, nil
	}
}

func (a *agent) call(name string, args, result any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.connect(callTimeout); err != nil {
		return fmt.Errorf("guest agent: %w", err)
	}
	err := a.exchange(callTimeout, name, args, result)
	var answered *agentError
	if err != nil && !errors.As(err, &answered) {
		a.drop()
	}
	if err != nil {
		return fmt.Errorf("guest agent: %s: %w", name, err)
	}
	return nil
}

// ready waits until the agent answers, as it does a few seconds into a boot.
func (a *agent) ready(ctx context.Context) error {
	for {
		a.mu.Lock()
		err := a.connect(2 * time.Second)
		a.mu.Unlock()
		if err == nil {
			return nil
		}
		if serr := sleep(ctx, 50*time.Millisecond); serr != nil {
			return fmt.Errorf("wait for the guest agent: %w (last: %v)", serr, err)
		}
	}
}

// connect opens and synchronises the connection if there is none.
func (a *agent) connect(timeout time.Duration) error {
	if a.conn != nil {
		return nil
	}
	conn, err := net.Dial("unix", a.path)
	if err != nil {
		return err
	}
	a.conn, a.in = conn, bufio.NewReaderSize(conn, 1<<16)
	if err := a.sync(timeout); err != nil {
		a.drop()
		return err
	}
	return nil
}

// sync throws away whatever an earlier connection left in the port: 0xff resets the agent's parser, and
// the answer to guest-sync-delimited starts with 0xff.
func (a *agent) sync(timeout time.Duration) error {
	id := time.Now().UnixNano() & 0x7fffffff
	a.conn.SetDeadline(time.Now().Add(timeout))
	if _, err := fmt.Fprintf(a.conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", id); err != nil {
		return err
	}
	for {
		line, err := a.in.ReadBytes('\n')
		if err != nil {
			return err
		}
		i := bytes.LastIndexByte(line, 0xff)
		var reply struct{ Return int64 }
		if i >= 0 && json.Unmarshal(line[i+1:], &reply) == nil && reply.Return == id {
			return nil
		}
	}
}

func (a *agent) exchange(timeout time.Duration, name string, args, result any) error {
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	// Megabytes pass at a few 100 kB/s under emulation: 20 µs a byte is ample.
	a.conn.SetDeadline(time.Now().Add(timeout + time.Duration(len(b))*20*time.Microsecond))
	if _, err := a.conn.Write(append(b, '\n')); err != nil {
		return err
	}
	line, err := a.readLine(timeout)
	if err != nil {
		return err
	}
	var reply struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return &agentError{reply.Error.Desc}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(reply.Return, result)
}

// readLine gives up only when nothing at all has come for that long.
func (a *agent) readLine(idle time.Duration) ([]byte, error) {
	var line []byte
	for {
		a.conn.SetReadDeadline(time.Now().Add(idle))
		part, err := a.in.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
