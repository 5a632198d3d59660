package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestOneAddressDoesNotTakeTheConnectionsOfAll(t *testing.T) {
	const most = 3
	k := newKMS(t, Config{MaxConns: most})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- k.Serve(t.Context(), l, nil) }()
	t.Cleanup(func() { <-done }) // the context has ended then
	dial := func(from string) net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	served := func(from string) bool {
		t.Helper()
		c := dial(from)
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake() == nil
	}
	var held []net.Conn
	for range most {
		held = append(held, dial("127.0.0.1"))
	}
	late := dial("127.0.0.1")
	late.SetReadDeadline(time.Now().Add(4 * time.Second)) // before the server gives a silent one up
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more: %v", err)
	}
	if !served("127.0.0.2") {
		t.Error("another address is not served")
	}
	held[0].Close()
	until := time.Now().Add(4 * time.Second)
	for !served("127.0.0.1") {
		if time.Now().After(until) {
			t.Fatal("not served again")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
