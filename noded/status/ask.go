package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Socket is where noded answers.
const Socket = "/run/cloister/status.sock"

// ErrSilent is wrapped when nobody answers: noded does not run, or is stuck.
var ErrSilent = errors.New("cloister-noded does not answer")

// The paths of the questions.
const (
	pathStatus  = "/status"
	pathRecover = "/recover"
	pathRelease = "/release"
)

// Ask asks for the status. A noded that is well answers at once, limit is how
// long it may take.
func Ask(ctx context.Context, socket string, limit time.Duration) (*Status, error) {
	b, err := ask(ctx, socket, http.MethodGet, pathStatus, limit)
	if err != nil {
		return nil, err
	}
	return Parse(b)
}

// Recover asks that a node be tried again, which can take minutes: each undo is
// tried three times.
func Recover(ctx context.Context, socket string, limit time.Duration) (*Recovery, error) {
	return change(ctx, socket, pathRecover, limit)
}

// Release asks that the session that has the node be ended, and answers when it
// is undone.
func Release(ctx context.Context, socket string, limit time.Duration) (*Recovery, error) {
	return change(ctx, socket, pathRelease, limit)
}

func change(ctx context.Context, socket, path string, limit time.Duration) (*Recovery, error) {
	b, err := ask(ctx, socket, http.MethodPost, path, limit)
	if err != nil {
		return nil, err
	}
	r, err := parse[Recovery](b)
	if err != nil {
		return nil, fmt.Errorf("reading what the node did: %w", err)
	}
	return r, nil
}

func ask(ctx context.Context, socket, method, path string, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://noded"+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrSilent, socket, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrSilent, socket, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cloister-noded answers %q", printable(string(bytes.TrimSpace(b[:min(len(b), 500)]))))
	}
	return b, nil
}

// JSON is the status for a program to read, as Parse does.
func (s *Status) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the status: %w", err)
	}
	return append(b, '\n'), nil
}
