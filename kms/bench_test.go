package kms_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"cloister/kms"
	"cloister/kms/server"
)

// wrapMany makes n tokens, 64 at a time so that they share fsyncs.
func wrapMany(b *testing.B, k target, n int) []kms.Token {
	b.Helper()
	c, key := k.client(b), newKey(b)
	toks := make([]kms.Token, n)
	var next atomic.Int64
	parallel(64, func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			tok, err := c.Wrap(context.Background(), k.user, key, time.Hour)
			if err != nil {
				b.Error(err)
				return
			}
			toks[i] = tok
		}
	})
	return toks
}

func parallel(n int, f func()) {
	done := make(chan struct{})
	for range n {
		go func() { f(); done <- struct{}{} }()
	}
	for range n {
		<-done
	}
}

// BenchmarkRedeem is a whole redemption as a node does it: TCP and TLS
// handshake, lookup, unwrap, with 32 nodes at once. Client and server share
// the machine's cores.
func BenchmarkRedeem(b *testing.B) {
	k := embedded(b, func(c *server.Config) { c.MaxLookups = 1 << 30 }) // all from one address
	toks := wrapMany(b, k, b.N)
	var next atomic.Int64
	b.ResetTimer()
	parallel(32, func() {
		c := k.client(b)
		for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
			if _, err := c.Redeem(context.Background(), toks[i].Token); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "redemptions/s")
}

// BenchmarkUnwrap is the server's part alone: unwrap requests over connections
// that are kept, each durable before it is answered.
func BenchmarkUnwrap(b *testing.B) {
	k := embedded(b, func(c *server.Config) { c.MaxConns = 256 }) // all from one address
	toks := wrapMany(b, k, b.N)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.caPEM)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 128}
	defer tr.CloseIdleConnections()
	var next atomic.Int64
	b.ResetTimer()
	parallel(128, func() {
		for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
			r, err := http.NewRequest(http.MethodPut, k.address+"/v1/sys/wrapping/unwrap", nil)
			if err != nil {
				b.Error(err)
				return
			}
			r.Header.Set("X-Vault-Token", string(toks[i].Token.Reveal()))
			resp, err := tr.RoundTrip(r)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				b.Errorf("status %d, %v", resp.StatusCode, err)
			}
			resp.Body.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "redemptions/s")
}
