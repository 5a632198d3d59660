package redeem

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister/kms"
	"cloister/kms/server/servertest"
	"cloister/noded/helper"
	"cloister/secret"
)

func TestMain(m *testing.M) {
	helper.Main()
	os.Exit(m.Run())
}

// embedded starts a KMS with one user and returns where it is.
func embedded(t *testing.T) (c kms.Config, user secret.Bytes) {
	t.Helper()
	s := servertest.Start(t)
	return s.Config, s.User
}

func redeemer(t *testing.T, c kms.Config) *Client {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestATokenGivesItsKeyOnce(t *testing.T) {
	c, user := embedded(t)
	wrapper, err := kms.New(c)
	if err != nil {
		t.Fatal(err)
	}
	key, err := secret.Random(rand.Reader, kms.JobKeySize)
	if err != nil {
		t.Fatal(err)
	}
	token, err := wrapper.Wrap(t.Context(), user, key, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got, err := redeemer(t, c).Redeem(t.Context(), token.Token)
	if err != nil || !got.Equal(key) {
		t.Fatalf("redeeming: %v", err)
	}
	if _, err := redeemer(t, c).Redeem(t.Context(), token.Token); !errors.Is(err, kms.ErrUsed) || kms.MaybeSpent(err) {
		t.Errorf("redeeming again: %v, want ErrUsed", err)
	}
}

// hostile serves h with a certificate that the client trusts.
func hostile(t *testing.T, h http.HandlerFunc) kms.Config {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	return kms.Config{Address: s.URL, CAPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), Timeout: 2 * time.Second}
}

const info = `{"data":{"creation_path":"sys/wrapping/wrap","creation_time":"2026-01-01T00:00:00Z","creation_ttl":60}}`

func TestTheKMSIsAskedByAProcessWithoutRights(t *testing.T) {
	var asked atomic.Value
	c := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		_, port, _ := net.SplitHostPort(r.RemoteAddr)
		asked.Store(ownerOf(port))
		http.Error(w, "{}", http.StatusForbidden)
	})
	if _, err := redeemer(t, c).Redeem(t.Context(), secret.New([]byte("s.token"))); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
	if got := asked.Load(); got != fmt.Sprint(nobody) {
		t.Errorf("the KMS was asked by uid %v", got)
	}
}

// ownerOf is the uid of the socket at a local port (proc_net_tcp(5): the local
// address is the second field, the uid the eighth).
func ownerOf(port string) string {
	b, _ := os.ReadFile("/proc/net/tcp")
	var n int
	fmt.Sscan(port, &n)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) {
			return f[7]
		}
	}
	return "not found"
}

func TestALostAnswerMayHaveSpentTheToken(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"nonsense": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "nonsense") },
		"none":     func(http.ResponseWriter, *http.Request) { <-t.Context().Done() },
		"hung up":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		c := hostile(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "lookup") {
				fmt.Fprint(w, info)
				return
			}
			answer(w, r)
		})
		_, err := redeemer(t, c).Redeem(t.Context(), secret.New([]byte("s.token")))
		if !kms.MaybeSpent(err) {
			t.Errorf("%s: %v, which does not say that the token may be spent", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "s.token") {
			t.Errorf("%s: the error holds the token: %v", name, err)
		}
	}
}

func TestAHelperThatIsLateOrDiesMayHaveSpentTheToken(t *testing.T) {
	c := hostile(t, func(http.ResponseWriter, *http.Request) { <-t.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := redeemer(t, c).Redeem(ctx, secret.New([]byte("s.token"))); !kms.MaybeSpent(err) || !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("%v, want ErrUnreachable that may have spent the token", err)
	}
}

func TestEveryKindOfErrorComesThroughAsItIs(t *testing.T) {
	for name, kind := range kinds {
		for _, spent := range []bool{false, true} {
			f, err := describe(fmt.Errorf("wrapped: %w", &kms.Error{Op: "op", Address: "a", Cause: "c", Kind: kind, MaybeSpent: spent}))
			if err != nil {
				t.Fatal(err)
			}
			if got := f.err(); !errors.Is(got, kind) || kms.MaybeSpent(got) != spent || kms.Hint(got) != kms.Hint(kind) {
				t.Errorf("%s came out as %v", name, got)
			}
		}
	}
}
