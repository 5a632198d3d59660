package kms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister/kms"
	"cloister/secret"
)

// canary is the token of these tests: no error may hold it, whatever the
// server does with it.
const canary = "ckw.CANARYCANARYCANARYCANARYCANARY"

func canaryToken() secret.Bytes { return secret.New([]byte(canary)) }

// authority is a CA of the test, not of the server under test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &authority{c, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes a server certificate for 127.0.0.1; change may spoil it.
func (a *authority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(c)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// hostile serves h with a certificate of a CA that the client trusts: the
// attacker is the KMS's own operator.
func hostile(t *testing.T, timeout time.Duration, h http.Handler) *kms.Client {
	t.Helper()
	ca := newAuthority(t)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil)}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	c, err := kms.New(kms.Config{Address: srv.URL, CAPEM: ca.pem, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// goodLookup answers a lookup as a real server does, and leaves the rest to next.
func goodLookup(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/sys/wrapping/lookup" {
			fmt.Fprintf(w, `{"data":{"creation_path":"sys/wrapping/wrap","creation_time":%q,"creation_ttl":3600}}`, time.Now().Format(time.RFC3339Nano))
			return
		}
		next(w, r)
	}
}

func say(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

func checkNoSecret(t *testing.T, err error) {
	t.Helper()
	for _, s := range []string{fmt.Sprint(err), fmt.Sprintf("%+v %#v", err, err), kms.Hint(err)} {
		if strings.Contains(s, "CANARY") || strings.Contains(s, "\n") || strings.Contains(s, "\x1b") {
			t.Errorf("the error has a secret or what the server wrote in it: %q", s)
		}
	}
}

func TestAHostileAnswerToAnUnwrapIsRefusedWithOneClearCause(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
		spent  bool
	}{
		"empty":             {say(200, ""), kms.ErrMalformed, true},
		"not JSON":          {say(200, "hello"), kms.ErrMalformed, true},
		"no data":           {say(200, `{"data":null}`), kms.ErrMalformed, true},
		"data is a list":    {say(200, `{"data":[1]}`), kms.ErrMalformed, true},
		"another member":    {say(200, `{"data":{"job_key":"`+key+`","x":1}}`), kms.ErrMalformed, true},
		"key twice":         {say(200, `{"data":{"job_key":"`+key+`","job_key":"`+key+`"}}`), kms.ErrMalformed, true},
		"other name":        {say(200, `{"data":{"Job_key":"`+key+`"}}`), kms.ErrMalformed, true},
		"key of 31 bytes":   {say(200, `{"data":{"job_key":"`+base64.StdEncoding.EncodeToString(make([]byte, 31))+`"}}`), kms.ErrMalformed, true},
		"key not canonical": {say(200, `{"data":{"job_key":"`+key[:42]+`B="}}`), kms.ErrMalformed, true},
		"key is a number":   {say(200, `{"data":{"job_key":1}}`), kms.ErrMalformed, true},
		"two values":        {say(200, `{"data":{"job_key":"`+key+`"}}{}`), kms.ErrMalformed, true},
		"deep":              {say(200, `{"data":`+strings.Repeat("[", 30000)+strings.Repeat("]", 30000)+`}`), kms.ErrMalformed, true},
		"no content":        {say(204, ""), kms.ErrMalformed, true},
		"echo": {func(w http.ResponseWriter, r *http.Request) {
			say(200, r.Header.Get("X-Vault-Token")+"\n\x1b[2J")(w, r)
		}, kms.ErrMalformed, true},
		"echo in an error": {func(w http.ResponseWriter, r *http.Request) {
			say(400, r.Header.Get("X-Vault-Token")+"\n\x1b[2J")(w, r)
		}, kms.ErrDenied, false},
		"echo in the errors": {say(403, `{"errors":["`+canary+`"]}`), kms.ErrDenied, false},
		"used":               {say(400, `{"errors":["wrapping token is not valid or does not exist"]}`), kms.ErrUsed, false},
		"expired":            {say(400, `{"errors":["wrapping token is not valid or does not exist","wrapping token has expired"]}`), kms.ErrExpired, false},
		"sealed":             {say(503, `{"errors":["Vault is sealed"]}`), kms.ErrUnreachable, true},
		"too many":           {say(429, `{"errors":[]}`), kms.ErrUnreachable, true},
		"not found":          {say(404, `{"data":{"job_key":"`+key+`"}}`), kms.ErrMalformed, true},
		"teapot":             {say(418, ``), kms.ErrMalformed, true},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, kms.ErrMalformed, true},
		"redirect with a key": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", r.URL.Path)
			say(302, `{"data":{"job_key":"`+key+`"}}`)(w, r)
		}, kms.ErrMalformed, true},
		"huge header": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, kms.ErrMalformed, true},
		"hang up":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, kms.ErrUnreachable, true},
		"not HTTP":    {raw("CANARY CANARY " + canary + "\r\n\r\n"), kms.ErrMalformed, true},
		"cut short":   {raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"), kms.ErrUnreachable, true},
	} {
		t.Run(name, func(t *testing.T) {
			cl := hostile(t, 5*time.Second, goodLookup(c.answer))
			_, err := cl.Redeem(t.Context(), canaryToken())
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if kms.MaybeSpent(err) != c.spent {
				t.Errorf("maybe spent: %v, want %v (%v)", !c.spent, c.spent, err)
			}
			checkNoSecret(t, err)
			if kms.Hint(err) == "" {
				t.Errorf("no next step for %v", err)
			}
		})
	}
}

// raw answers with bytes of the test's own and hangs up.
func raw(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(c, s)
		c.Close()
	}
}

func TestATokenThatSomebodyReWrappedIsNotRedeemed(t *testing.T) {
	var unwraps atomic.Int32
	for _, path := range []string{"secret/data/x", "sys/wrapping/rewrap", "sys/wrapping/wrap/", "Sys/wrapping/wrap", "/sys/wrapping/wrap"} {
		cl := hostile(t, 0, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "unwrap") {
				unwraps.Add(1)
			}
			fmt.Fprintf(w, `{"data":{"creation_path":%q,"creation_time":%q,"creation_ttl":60}}`, path, time.Now().Format(time.RFC3339))
		}))
		_, err := cl.Redeem(t.Context(), canaryToken())
		if !errors.Is(err, kms.ErrForeign) || kms.MaybeSpent(err) {
			t.Errorf("creation path %s: %v, want ErrForeign", path, err)
		}
		checkNoSecret(t, err)
	}
	if n := unwraps.Load(); n != 0 {
		t.Errorf("%d tokens were redeemed all the same", n)
	}
}

func TestAnEndlessAnswerCostsBoundedMemory(t *testing.T) {
	var sent atomic.Int64
	endless := func(w http.ResponseWriter, r *http.Request) {
		b := []byte(strings.Repeat(" ", 32<<10))
		for r.Context().Err() == nil {
			n, err := w.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}
	for _, status := range []int{200, 400, 500} {
		cl := hostile(t, 10*time.Second, goodLookup(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			endless(w, r)
		}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := cl.Redeem(t.Context(), canaryToken())
		runtime.ReadMemStats(&after)
		if !errors.Is(err, kms.ErrMalformed) || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("status %d: %v, want ErrMalformed for its length", status, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
			t.Errorf("status %d: %d bytes allocated", status, got)
		}
	}
	// What the kernel's socket buffers took is sent but never read.
	if sent.Load() > 64<<20 {
		t.Errorf("the client let the server send %d bytes", sent.Load())
	}
}

func TestASlowServerCostsNoMoreThanTheTimeout(t *testing.T) {
	const timeout = 300 * time.Millisecond
	drip := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	}
	silent := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		spent   bool
	}{
		"no answer to lookup":        {silent, false},
		"no answer to unwrap":        {goodLookup(silent), true},
		"one byte at a time, lookup": {drip, false},
		"one byte at a time, unwrap": {goodLookup(drip), true},
	} {
		t.Run(name, func(t *testing.T) {
			cl := hostile(t, timeout, c.handler)
			start := time.Now()
			_, err := cl.Redeem(t.Context(), canaryToken())
			if d := time.Since(start); d > timeout+2*time.Second {
				t.Errorf("took %v", d)
			}
			if !errors.Is(err, kms.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) || kms.MaybeSpent(err) != c.spent {
				t.Errorf("%v (maybe spent %v), want ErrUnreachable (%v)", err, kms.MaybeSpent(err), c.spent)
			}
			checkNoSecret(t, err)
		})
	}
}

func TestAListenerThatNeverSpeaksTLSCostsNoMoreThanTheTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cl, err := kms.New(kms.Config{Address: "https://" + l.Addr().String(), CAPEM: newAuthority(t).pem, Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := cl.Redeem(t.Context(), canaryToken()); !errors.Is(err, kms.ErrUnreachable) || time.Since(start) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestACallerThatGivesUpIsToldSo(t *testing.T) {
	asked := make(chan struct{}, 1) // of the unwrap: before that nothing is spent
	cl := hostile(t, time.Minute, goodLookup(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	late := &overdue{t.Context(), make(chan struct{})}
	go func() {
		<-asked
		close(late.done)
	}()
	if _, err := cl.Redeem(late, canaryToken()); !errors.Is(err, context.DeadlineExceeded) || !kms.MaybeSpent(err) {
		t.Errorf("deadline of the caller: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := cl.Redeem(ctx, canaryToken()); !errors.Is(err, context.Canceled) || !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("cancelled by the caller: %v", err)
	}
}

// overdue is a context whose deadline passes when done is closed.
type overdue struct {
	context.Context
	done chan struct{}
}

func (o *overdue) Done() <-chan struct{} { return o.done }

func (o *overdue) Err() error {
	select {
	case <-o.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestARedemptionIsNeverSentTwice(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"hang up":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"server error": say(500, `{"errors":["internal error"]}`),
		"busy":         say(503, ""),
		"bad gateway":  say(502, ""),
		"too many":     say(429, ""),
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			cl := hostile(t, 5*time.Second, goodLookup(func(w http.ResponseWriter, r *http.Request) {
				n.Add(1)
				answer(w, r)
			}))
			if _, err := cl.Redeem(t.Context(), canaryToken()); err == nil {
				t.Error("succeeded")
			}
			if n.Load() != 1 {
				t.Errorf("unwrap was sent %d times", n.Load())
			}
		})
	}
}

func TestAServerThatTheCADoesNotVouchForIsRefused(t *testing.T) {
	ca := newAuthority(t)
	for name, c := range map[string]struct {
		cfg  *tls.Config
		want string
	}{
		"another CA":   {&tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue(t, nil)}}, "not from the site file's CA"},
		"another host": {&tls.Config{Certificates: []tls.Certificate{ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = nil; c.DNSNames = []string{"CANARY"} })}}, "another host"},
		"expired":      {&tls.Config{Certificates: []tls.Certificate{ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}, "expired"},
		"for clients only": {&tls.Config{Certificates: []tls.Certificate{ca.issue(t, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})}}, "not valid"},
		"TLS 1.1": {&tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") }))
			srv.TLS = c.cfg
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			defer srv.Close()
			cl, err := kms.New(kms.Config{Address: srv.URL, CAPEM: ca.pem})
			if err != nil {
				t.Fatal(err)
			}
			_, err = cl.Redeem(t.Context(), canaryToken())
			if !errors.Is(err, kms.ErrTLS) || !strings.Contains(err.Error(), c.want) || kms.MaybeSpent(err) {
				t.Errorf("%v, want ErrTLS: %s", err, c.want)
			}
			checkNoSecret(t, err)
		})
	}
	t.Run("no TLS at all", func(t *testing.T) {
		srv := httptest.NewServer(say(200, ""))
		defer srv.Close()
		cl, err := kms.New(kms.Config{Address: strings.Replace(srv.URL, "http:", "https:", 1), CAPEM: ca.pem})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = cl.Redeem(t.Context(), canaryToken()); !errors.Is(err, kms.ErrTLS) {
			t.Errorf("%v, want ErrTLS", err)
		}
	})
}

func TestAHostileAnswerToAWrapIsRefused(t *testing.T) {
	now := time.Now().Format(time.RFC3339)
	for name, answer := range map[string]string{
		"empty":            ``,
		"no wrap_info":     `{"data":{}}`,
		"no token":         `{"wrap_info":{"accessor":"a","ttl":60,"creation_time":"` + now + `","creation_path":"sys/wrapping/wrap"}}`,
		"control bytes":    `{"wrap_info":{"token":"a\nb","accessor":"a","ttl":60,"creation_time":"` + now + `","creation_path":"sys/wrapping/wrap"}}`,
		"long token":       `{"wrap_info":{"token":"` + strings.Repeat("x", 5000) + `","accessor":"a","ttl":60,"creation_time":"` + now + `","creation_path":"sys/wrapping/wrap"}}`,
		"bad accessor":     `{"wrap_info":{"token":"t","accessor":"\u001b[2J","ttl":60,"creation_time":"` + now + `","creation_path":"sys/wrapping/wrap"}}`,
		"other path":       `{"wrap_info":{"token":"t","accessor":"a","ttl":60,"creation_time":"` + now + `","creation_path":"sys/x"}}`,
		"no life":          `{"wrap_info":{"token":"t","accessor":"a","ttl":0,"creation_time":"` + now + `","creation_path":"sys/wrapping/wrap"}}`,
		"overflowing life": `{"wrap_info":{"token":"t","accessor":"a","ttl":9223372036854775807,"creation_time":"` + now + `","creation_path":"sys/wrapping/wrap"}}`,
		"no time":          `{"wrap_info":{"token":"t","accessor":"a","ttl":60,"creation_path":"sys/wrapping/wrap"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			cl := hostile(t, 0, say(200, answer))
			if _, err := cl.Wrap(t.Context(), canaryToken(), newKey(t), time.Hour); !errors.Is(err, kms.ErrMalformed) {
				t.Errorf("%v, want ErrMalformed", err)
			}
		})
	}
}

func TestARevocationOfNothingIsToldInEveryFormThatServersHave(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"done, no content":      {204, "", nil},
		"done, with an answer":  {200, `{"data":null,"warnings":null}`, nil},
		"unknown, as a warning": {200, `{"data":null,"warnings":["No token found with this accessor"]}`, kms.ErrUsed},
		"unknown, as an error":  {400, `{"errors":["invalid accessor"]}`, kms.ErrUsed},
		"another error":         {400, `{"errors":["missing accessor"]}`, kms.ErrDenied},
		"not allowed":           {403, `{"errors":["permission denied"]}`, kms.ErrDenied},
		"garbage":               {200, `ok`, kms.ErrMalformed},
	} {
		client := hostile(t, 5*time.Second, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		}))
		if err := client.Revoke(t.Context(), canaryToken(), "accessor"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
