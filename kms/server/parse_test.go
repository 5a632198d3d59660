package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestALifeIsSecondsOrAGoDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"60": time.Minute, "60s": time.Minute, "168h": 168 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := parseTTL(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
}

// FuzzRequest sends anything to every endpoint. Whatever comes, the server
// must answer with JSON in one of Vault's shapes, never with a 5xx, and must
// not give the canary's payload to somebody without its token.
func FuzzRequest(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "state")
	if _, err := Init(dir, []string{"head"}); err != nil {
		f.Fatal(err)
	}
	user, err := AddUser(dir, "alice")
	if err != nil {
		f.Fatal(err)
	}
	s, err := Open(Config{Dir: dir, Log: zap.NewNop(), MaxTokens: 1 << 30, MaxRefused: 1 << 30})
	if err != nil {
		f.Fatal(err)
	}
	defer s.Close()
	s.store.db.NoSync = true // fuzzing is about parsing
	if _, _, err := s.store.wrap("alice", []byte(`{"canary":"CANARY"}`), time.Now(), time.Hour, 1); err != nil {
		f.Fatal(err)
	}
	h := s.Handler()
	paths := []string{"sys/wrapping/wrap", "sys/wrapping/lookup", "sys/wrapping/unwrap", "auth/token/revoke-accessor", "auth/token/lookup-self", "sys/health", "sys/seal-status", "x",
		"auth/token/renew-self", "auth/userpass/login/alice", "auth/userpass/login/A%20B"}
	f.Fuzz(func(t *testing.T, path uint8, asUser bool, token, ttl string, body []byte) {
		p := paths[int(path)%len(paths)]
		method := http.MethodPut
		if path >= 128 {
			method = http.MethodGet
		}
		r := httptest.NewRequest(method, "/v1/"+p, bytes.NewReader(body))
		r.Header["X-Vault-Token"] = []string{token}
		if asUser {
			r.Header["X-Vault-Token"] = []string{string(user.Reveal())}
		}
		r.Header["X-Vault-Wrap-Ttl"] = []string{ttl}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 || (w.Code != http.StatusNoContent && !json.Valid(w.Body.Bytes())) {
			t.Fatalf("%s: %d %s", p, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "CANARY") && !bytes.Contains(body, []byte("CANARY")) {
			t.Fatalf("%s gave the payload away", p)
		}
		if p == "sys/wrapping/wrap" && w.Code == http.StatusOK {
			var a answer
			if !asUser || json.Unmarshal(w.Body.Bytes(), &a) != nil {
				t.Fatalf("wrapped for nobody: %s", w.Body)
			}
			if _, data, err := s.store.redeem(a.WrapInfo.Token, time.Now()); err != nil || !json.Valid(data) {
				t.Fatalf("what was wrapped came back as %q, %v", data, err)
			}
		}
	})
}
