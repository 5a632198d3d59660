package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// monitor is QEMU's machine protocol (QMP, docs/interop/qmp-spec.txt of QEMU) on one guest.
type monitor struct {
	conn net.Conn
	in   *bufio.Reader
}

func openMonitor(ctx context.Context, path string) (*monitor, error) {
	conn, err := dialUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	m := &monitor{conn, bufio.NewReader(conn)}
	if _, err := m.in.ReadBytes('\n'); err != nil { // greeting
		conn.Close()
		return nil, fmt.Errorf("read QEMU's greeting: %w", err)
	}
	if _, err := m.do("qmp_capabilities", nil); err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *monitor) close() { m.conn.Close() }

func (m *monitor) do(name string, args any) (json.RawMessage, error) {
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", name, err)
	}
	m.conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("qmp %s: %w", name, err)
	}
	for {
		line, err := m.in.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("qmp %s: %w", name, err)
		}
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line, &reply); err != nil {
			return nil, fmt.Errorf("qmp %s: %w", name, err)
		}
		switch {
		case reply.Error != nil:
			return nil, fmt.Errorf("qmp %s: %s", name, reply.Error.Desc)
		case reply.Return != nil:
			return reply.Return, nil
		} // else an event
	}
}

// shareRAM leaves the guest's memory out of the migration stream: it is in a file of its own
// (capability x-ignore-shared, qapi/migration.json of QEMU).
func (m *monitor) shareRAM() error {
	_, err := m.do("migrate-set-capabilities", map[string]any{
		"capabilities": []any{map[string]any{"capability": "x-ignore-shared", "state": true}}})
	return err
}

// migrated waits until an outgoing or incoming migration is over.
func (m *monitor) migrated(ctx context.Context) error {
	for {
		b, err := m.do("query-migrate", nil)
		if err != nil {
			return err
		}
		var s struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("qmp query-migrate: %w", err)
		}
		switch s.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("move the guest's state: %s %s", s.Status, s.Desc)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// dialUnix connects to a socket that QEMU may not have made yet.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("connect to QEMU: %w", err)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
}
