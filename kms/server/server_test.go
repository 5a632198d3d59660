package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"cloister/secret"
)

// kmsUnderTest is a server without TLS whose clock and log the test holds.
type kmsUnderTest struct {
	*Server
	t     *testing.T
	dir   string
	key   secret.Bytes
	clock time.Time
	log   bytes.Buffer
	user  string // alice's token
}

func newKMS(t *testing.T, cfg Config) *kmsUnderTest {
	t.Helper()
	k := &kmsUnderTest{t: t, dir: filepath.Join(t.TempDir(), "state"), clock: time.Now().Truncate(time.Second)}
	var err error
	if k.key, err = secret.Random(rand.Reader, StateKeySize); err != nil {
		t.Fatal(err)
	}
	if _, err := k.state().Init([]string{"head", "10.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	k.user = k.addUser("alice")
	cfg.Dir, cfg.Key = k.dir, k.key
	cfg.now = func() time.Time { return k.clock }
	cfg.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&k.log), zap.DebugLevel))
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.Server = s
	t.Cleanup(func() { s.Close() })
	return k
}

func (k *kmsUnderTest) state() State { return State{k.dir, k.key} }

func (k *kmsUnderTest) addUser(name string) string {
	k.t.Helper()
	tok, err := k.state().AddUser(name, DefaultRole)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(tok.Reveal())
}

// ask sends one request; headers come in pairs.
func (k *kmsUnderTest) ask(method, path, body string, headers ...string) (int, string) {
	k.t.Helper()
	r := httptest.NewRequest(method, "/v1/"+path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	k.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func (k *kmsUnderTest) wrapOK(user, body, ttl string) wrapInfo {
	k.t.Helper()
	code, text := k.ask("PUT", "sys/wrapping/wrap", body, "X-Vault-Token", user, "X-Vault-Wrap-TTL", ttl)
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil || code != 200 || a.WrapInfo == nil {
		k.t.Fatalf("wrap: %d %s", code, text)
	}
	return *a.WrapInfo
}

func (k *kmsUnderTest) unwrap(token string) (int, string) {
	k.t.Helper()
	return k.ask("PUT", "sys/wrapping/unwrap", "", "X-Vault-Token", token)
}

func TestTheStateAndTheLogHoldNeitherATokenNorWhatIsWrapped(t *testing.T) {
	k := newKMS(t, Config{})
	kept := k.wrapOK(k.user, `{"job_key":"CANARYCANARY"}`, "1h")
	used := k.wrapOK(k.user, `{"job_key":"CANARYCANARY"}`, "1h")
	if code, text := k.unwrap(used.Token); code != 200 || !strings.Contains(text, "CANARYCANARY") {
		t.Fatalf("the payload did not come back, so the search below would prove nothing: %d %s", code, text)
	}
	k.unwrap(used.Token)
	k.ask("PUT", "sys/wrapping/lookup", `{"token":"`+kept.Token+`"}`)
	k.ask("PUT", "sys/wrapping/lookup", `{"tokken":"`+kept.Token+`"}`)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	searched := 0
	search := func(name string, b []byte) {
		searched += len(b)
		for _, s := range []string{"CANARY", kept.Token, used.Token, k.user, strings.TrimPrefix(kept.Token, wrapTokenPrefix), strings.TrimPrefix(k.user, userTokenPrefix)} {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s holds %.10s…", name, s)
			}
		}
	}
	err := filepath.WalkDir(k.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		search(path, append(b, path...))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	search("the log", k.log.Bytes())
	if searched < 16<<10 {
		t.Errorf("only %d bytes searched", searched)
	}
	for _, want := range []string{`"op":"wrap"`, `"op":"unwrap","result":"ok","user":"alice","accessor":"` + used.Accessor, `"result":"` + tokenGone} {
		if !strings.Contains(k.log.String(), want) {
			t.Errorf("the audit log has no %s:\n%s", want, k.log.String())
		}
	}
}

func TestARecordWhoseStoredLifeWasEditedDoesNotOpen(t *testing.T) {
	k := newKMS(t, Config{})
	w := k.wrapOK(k.user, `{"a":"b"}`, "60")
	_, err := k.store.lookup(w.Token, k.clock)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, k.store, w.Token, func(r *record) { r.TTL = 1 << 30 })
	k.clock = k.clock.Add(time.Hour)
	if code, text := k.unwrap(w.Token); code != 500 || strings.Contains(text, `"a"`) {
		t.Errorf("%d %s", code, text)
	}
}

func TestExpiredTokensSayExpiredThenVanishAndTheirPayloadGoesAtOnce(t *testing.T) {
	k := newKMS(t, Config{})
	w := k.wrapOK(k.user, `{"a":"b"}`, "60s")
	k.clock = k.clock.Add(59 * time.Second)
	if code, _ := k.ask("POST", "sys/wrapping/lookup", `{"token":"`+w.Token+`"}`); code != 200 {
		t.Fatalf("lookup a second before the end: %d", code)
	}
	k.clock = k.clock.Add(time.Second)
	if code, text := k.unwrap(w.Token); code != 400 || !strings.Contains(text, tokenGone) || !strings.Contains(text, tokenExpired) {
		t.Errorf("at the end: %d %s", code, text)
	}
	if n, err := k.store.purge(k.clock); n != 1 || err != nil {
		t.Fatalf("purged %d, %v", n, err)
	}
	if rec, err := k.store.lookup(w.Token, k.clock); !errors.Is(err, errExpired) || len(rec.Sealed) != 0 {
		t.Errorf("after a purge: %d sealed bytes, %v", len(rec.Sealed), err)
	}
	if n, err := k.store.purge(k.clock); n != 0 || err != nil {
		t.Errorf("purged %d again, %v", n, err)
	}
	k.clock = k.clock.Add(-time.Hour)
	if code, text := k.unwrap(w.Token); code != 400 || !strings.Contains(text, tokenExpired) {
		t.Errorf("with the clock put back after the purge: %d %s", code, text)
	}
	k.clock = k.clock.Add(time.Hour + keepExpired)
	if n, err := k.store.purge(k.clock); n != 1 || err != nil {
		t.Fatalf("a day later: purged %d, %v", n, err)
	}
	if code, text := k.unwrap(w.Token); code != 400 || strings.Contains(text, tokenExpired) {
		t.Errorf("a day later: %d %s", code, text)
	}
}

func TestALongerLifeThanTheServersMaximumIsLoweredWithAWarning(t *testing.T) {
	k := newKMS(t, Config{MaxTTL: time.Minute})
	code, text := k.ask("PUT", "sys/wrapping/wrap", `{"a":1}`, "X-Vault-Token", k.user, "X-Vault-Wrap-TTL", "2h")
	if code != 200 || !strings.Contains(text, `"ttl":60,`) || !strings.Contains(text, "lowered") {
		t.Errorf("%d %s", code, text)
	}
}

func TestAUserHasALimitedNumberOfUnusedTokensOfTheirOwn(t *testing.T) {
	k := newKMS(t, Config{MaxTokens: 2})
	bob := k.addUser("bob")
	first := k.wrapOK(k.user, `{"a":1}`, "60")
	second := k.wrapOK(k.user, `{"a":1}`, "60")
	full := func() int {
		code, _ := k.ask("PUT", "sys/wrapping/wrap", `{"a":1}`, "X-Vault-Token", k.user, "X-Vault-Wrap-TTL", "60")
		return code
	}
	if code := full(); code != 429 {
		t.Errorf("third token: %d, want 429", code)
	}
	k.wrapOK(bob, `{"a":1}`, "60")
	if code, _ := k.unwrap(first.Token); code != 200 {
		t.Fatal("unwrap failed")
	}
	k.wrapOK(k.user, `{"a":1}`, "60")
	if code, _ := k.ask("POST", "auth/token/revoke-accessor", `{"accessor":"`+second.Accessor+`"}`, "X-Vault-Token", k.user); code != 204 {
		t.Fatalf("revoke: %d", code)
	}
	k.wrapOK(k.user, `{"a":1}`, "60")
	if code := full(); code != 429 {
		t.Errorf("after one use and one revocation the limit is gone: %d", code)
	}
}

func TestAUserCannotRevokeAnothersToken(t *testing.T) {
	k := newKMS(t, Config{})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	bob := k.addUser("bob")
	if code, _ := k.ask("POST", "auth/token/revoke-accessor", `{"accessor":"`+w.Accessor+`"}`, "X-Vault-Token", bob); code != 400 {
		t.Errorf("bob's revocation: %d, want 400", code)
	}
	if code, _ := k.unwrap(w.Token); code != 200 {
		t.Errorf("alice's token after it: %d", code)
	}
}

func TestARemovedUserCanWrapNoMoreButQueuedJobsGoOn(t *testing.T) {
	k := newKMS(t, Config{})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	if err := k.state().RemoveUser("alice"); err != nil {
		t.Fatal(err)
	}
	if code, _ := k.ask("PUT", "sys/wrapping/wrap", `{"a":1}`, "X-Vault-Token", k.user, "X-Vault-Wrap-TTL", "60"); code != 403 {
		t.Errorf("wrap by a removed user: %d", code)
	}
	if code, _ := k.unwrap(w.Token); code != 200 {
		t.Errorf("unwrap: %d", code)
	}
	if err := k.state().RemoveUser("alice"); !errors.Is(err, ErrUnknownUser) {
		t.Errorf("removing twice: %v", err)
	}
}

func TestMalformedRequestsAreRefusedInVaultsErrorShape(t *testing.T) {
	k := newKMS(t, Config{})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	user := []string{"X-Vault-Token", k.user, "X-Vault-Wrap-TTL", "60"}
	ttl := func(v string) []string { return []string{"X-Vault-Token", k.user, "X-Vault-Wrap-TTL", v} }
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		want               int
	}{
		"body too large":        {"PUT", "sys/wrapping/wrap", `{"a":"` + strings.Repeat("x", maxBody) + `"}`, user, 413},
		"wrap a list":           {"PUT", "sys/wrapping/wrap", `[1]`, user, 400},
		"wrap nothing":          {"PUT", "sys/wrapping/wrap", `{}`, user, 400},
		"wrap no body":          {"PUT", "sys/wrapping/wrap", ``, user, 400},
		"wrap a member twice":   {"PUT", "sys/wrapping/wrap", `{"a":1,"a":2}`, user, 400},
		"wrap two objects":      {"PUT", "sys/wrapping/wrap", `{"a":1}{}`, user, 400},
		"no TTL":                {"PUT", "sys/wrapping/wrap", `{"a":1}`, user[:2], 400},
		"TTL 0":                 {"PUT", "sys/wrapping/wrap", `{"a":1}`, ttl("0"), 400},
		"TTL negative":          {"PUT", "sys/wrapping/wrap", `{"a":1}`, ttl("-5s"), 400},
		"TTL of a millisecond":  {"PUT", "sys/wrapping/wrap", `{"a":1}`, ttl("1ms"), 400},
		"TTL overflowing":       {"PUT", "sys/wrapping/wrap", `{"a":1}`, ttl("9223372036854775807"), 400},
		"TTL not a number":      {"PUT", "sys/wrapping/wrap", `{"a":1}`, ttl("soon"), 400},
		"no user":               {"PUT", "sys/wrapping/wrap", `{"a":1}`, user[2:], 403},
		"long user token":       {"PUT", "sys/wrapping/wrap", `{"a":1}`, []string{"X-Vault-Token", strings.Repeat("x", 5000), "X-Vault-Wrap-TTL", "60"}, 403},
		"path as a user token":  {"PUT", "sys/wrapping/wrap", `{"a":1}`, []string{"X-Vault-Token", "../../config", "X-Vault-Wrap-TTL", "60"}, 403},
		"lookup without token":  {"PUT", "sys/wrapping/lookup", ``, nil, 400},
		"lookup, extra member":  {"PUT", "sys/wrapping/lookup", `{"token":"` + w.Token + `","x":1}`, nil, 400},
		"lookup, not a string":  {"PUT", "sys/wrapping/lookup", `{"token":1}`, nil, 400},
		"unwrap, long token":    {"PUT", "sys/wrapping/unwrap", `{"token":"` + strings.Repeat("x", 1000) + `"}`, nil, 400},
		"unwrap by GET":         {"GET", "sys/wrapping/unwrap", ``, []string{"X-Vault-Token", w.Token}, 404},
		"another engine":        {"GET", "secret/data/x", ``, user, 404},
		"revoke without a body": {"PUT", "auth/token/revoke-accessor", ``, user, 400},
		"revoke nothing":        {"PUT", "auth/token/revoke-accessor", `{"accessor":""}`, user, 400},
		"revoke unknown":        {"PUT", "auth/token/revoke-accessor", `{"accessor":"x"}`, user, 400},
	} {
		t.Run(name, func(t *testing.T) {
			code, text := k.ask(c.method, c.path, c.body, c.headers...)
			var e struct {
				Errors *[]string `json:"errors"`
			}
			if code != c.want || json.Unmarshal([]byte(text), &e) != nil || e.Errors == nil {
				t.Errorf("%d %s, want %d with errors", code, text, c.want)
			}
			if strings.Contains(text, k.user) || strings.Contains(text, w.Token) {
				t.Errorf("the answer repeats a token: %s", text)
			}
		})
	}
	if code, text := k.unwrap(w.Token); code != 200 || !strings.Contains(text, `"data":{"a":1}`) {
		t.Errorf("the token was harmed: %d %s", code, text)
	}
}

func TestInitNeverReplacesACAAndRefusesWhatIsNoAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for _, bad := range []string{"", "https://head", "head:8200", "-x", "a b", strings.Repeat("a", 64)} {
		if _, err := Init(dir, []string{bad}); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrNotInitialised) {
		t.Errorf("opening nothing: %v", err)
	}
	ca, err := Init(dir, []string{"head"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, []string{"head"}); !errors.Is(err, ErrInitialised) {
		t.Errorf("second init: %v", err)
	}
	st, err := State{Dir: dir}.ReadStatus()
	if err != nil || !bytes.Equal(st.CAPEM, ca) {
		t.Errorf("the CA changed: %v", err)
	}
	for f, mode := range map[string]os.FileMode{"": 0o700, caKeyFile: 0o600, databaseFile: 0o600, configFile: 0o600, usersDir: 0o700} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %v", f, st.Mode(), err, mode)
		}
	}
}

func TestASecondServerOnTheSameStateIsRefused(t *testing.T) {
	k := newKMS(t, Config{})
	if _, err := Open(Config{Dir: k.dir, Key: k.key}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
}

func TestUserNamesThatArePathsOrTakenAreRefused(t *testing.T) {
	k := newKMS(t, Config{})
	for _, name := range []string{"", "../x", "A", "a b", strings.Repeat("a", 33), "1a"} {
		if _, err := k.state().AddUser(name, DefaultRole); err == nil {
			t.Errorf("added %q", name)
		}
	}
	if _, err := k.state().AddUser("alice", DefaultRole); !errors.Is(err, ErrUserExists) {
		t.Errorf("adding alice twice: %v", err)
	}
}

func TestAddingAUserDoesNotFollowALinkOutOfTheState(t *testing.T) {
	k := newKMS(t, Config{})
	outside := t.TempDir()
	users := filepath.Join(k.dir, usersDir)
	if err := errors.Join(os.RemoveAll(users), os.Symlink(outside, users)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.state().AddUser("bob", DefaultRole); err == nil {
		t.Error("wrote through a link")
	}
	if e, err := os.ReadDir(outside); err != nil || len(e) != 0 {
		t.Errorf("left %v outside, %v", e, err)
	}
}

func TestTheServersCertificateRenewsItselfUnderTheSameCA(t *testing.T) {
	k := newKMS(t, Config{})
	roots := x509.NewCertPool()
	roots.AddCert(k.issuer.ca)
	first, err := k.issuer.certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c, err := k.issuer.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"head", "10.0.0.1"} {
			if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: k.clock}); err != nil {
				t.Errorf("for %s on %v: %v", name, k.clock, err)
			}
		}
		k.clock = k.clock.Add(certLife - time.Hour)
	}
	if last, _ := k.issuer.certificate(nil); last == first {
		t.Error("the certificate was never renewed")
	}
}

func TestServeFinishesAnswersInProgressWhenToldToStop(t *testing.T) {
	k := newKMS(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- k.Serve(ctx, l, func() { close(ready) }) }()
	<-ready
	roots := x509.NewCertPool()
	roots.AddCert(k.issuer.ca)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "head"}}
	defer tr.CloseIdleConnections()
	pr, pw := io.Pipe()
	r, err := http.NewRequest("PUT", "https://"+l.Addr().String()+"/v1/sys/wrapping/wrap", pr)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", k.user)
	r.Header.Set("X-Vault-Wrap-TTL", "60")
	answered := make(chan string, 1)
	go func() {
		resp, err := tr.RoundTrip(r)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answered <- fmt.Sprint(resp.StatusCode, string(b), err)
	}()
	fmt.Fprint(pw, `{"a":`)
	time.Sleep(300 * time.Millisecond) // until the server reads the body
	stop()
	time.Sleep(100 * time.Millisecond)
	fmt.Fprint(pw, `1}`)
	pw.Close()
	if got := <-answered; !strings.HasPrefix(got, "200") || !strings.Contains(got, "wrap_info") {
		t.Errorf("the request in progress got %s", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
