// Package servertest gives a test a key server of its own.
package servertest

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"cloister/kms"
	"cloister/kms/server"
	"cloister/secret"
)

// A Server runs on the loopback address until its test ends.
type Server struct {
	kms.Config              // how a client reaches it
	User       secret.Bytes // the token of its user alice
	Dir        string       // its state
}

// Start starts one; change alters its configuration.
func Start(t testing.TB, change ...func(*server.Config)) Server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kms")
	ca, err := server.Init(dir, []string{"localhost", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	user, err := server.AddUser(dir, "alice")
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Dir: dir}
	for _, f := range change {
		f(&cfg)
	}
	s, err := server.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Errorf("stopping the server: %v", err)
		}
	})
	return Server{kms.Config{Address: "https://" + l.Addr().String(), CAPEM: ca}, user, dir}
}
