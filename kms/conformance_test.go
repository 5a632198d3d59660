package kms_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openbao/openbao/api/v2"

	"cloister/kms"
	"cloister/kms/server"
	"cloister/kms/server/servertest"
	"cloister/secret"
)

// A target is a KMS that the conformance suite runs against.
type target struct {
	address string
	caPEM   []byte
	user    secret.Bytes
	// name and password log in by userpass; a real server may have none.
	name, password string
	dir            string // of the embedded server
}

// targets always has the embedded server, and the real one that KMS_ADDR,
// KMS_TOKEN and KMS_CACERT (a PEM file) name, when they are set. The token
// must be allowed to use sys/wrapping/wrap. KMS_USER and KMS_PASSWORD name a
// user of its userpass method who may too.
func targets(t *testing.T) map[string]target {
	t.Helper()
	all := map[string]target{"embedded": embedded(t)}
	if addr := os.Getenv("KMS_ADDR"); addr != "" {
		ca, err := os.ReadFile(os.Getenv("KMS_CACERT"))
		if err != nil {
			t.Fatalf("KMS_ADDR is set, so KMS_CACERT must name a PEM file: %v", err)
		}
		all["real"] = target{addr, ca, secret.New([]byte(os.Getenv("KMS_TOKEN"))), os.Getenv("KMS_USER"), os.Getenv("KMS_PASSWORD"), ""}
	}
	return all
}

// embedded starts a server on the loopback address for one test.
func embedded(t testing.TB, change ...func(*server.Config)) target {
	t.Helper()
	s := servertest.Start(t, change...)
	return target{address: s.Address, caPEM: s.CAPEM, user: s.User, dir: s.Dir}
}

func (k target) client(t testing.TB) *kms.Client {
	t.Helper()
	c, err := kms.New(kms.Config{Address: k.address, CAPEM: k.caPEM})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stock is the OpenBao API client as others use it.
func (k target) stock(t *testing.T, token string) *api.Client {
	t.Helper()
	cfg := api.NewConfig()
	cfg.Address = k.address
	cfg.MaxRetries = 0
	if err := cfg.ConfigureTLS(&api.TLSConfig{CACertBytes: k.caPEM}); err != nil {
		t.Fatal(err)
	}
	c, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(token)
	return c
}

func newKey(t testing.TB) secret.Bytes {
	t.Helper()
	k, err := secret.Random(rand.Reader, kms.JobKeySize)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustWrap(t *testing.T, k target, key secret.Bytes, ttl time.Duration) kms.Token {
	t.Helper()
	tok, err := k.client(t).Wrap(t.Context(), k.user, key, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// stranger is nobody's token. It has the shape of Vault's: what follows another
// prefix's dot Vault takes for a namespace, and answers 500 or 403.
const stranger = "s.0123456789abcdefghijklmn"

// each runs one conformance test against every target.
func each(t *testing.T, f func(t *testing.T, k target)) {
	t.Helper()
	for name, k := range targets(t) {
		t.Run(name, func(t *testing.T) { f(t, k) })
	}
}

func TestAWrappedKeyComesBackOnceAndThenTheTokenIsGone(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		key := newKey(t)
		before := time.Now()
		tok := mustWrap(t, k, key, time.Hour)
		if tok.CreationPath != kms.WrapPath || tok.Accessor == "" {
			t.Errorf("creation path %q, accessor %q", tok.CreationPath, tok.Accessor)
		}
		if d := tok.Expires.Sub(before); d < 50*time.Minute || d > 70*time.Minute {
			t.Errorf("token expires in %v, want an hour", d)
		}
		c := k.client(t)
		info, err := c.Lookup(t.Context(), tok.Token)
		if err != nil || info.CreationPath != kms.WrapPath || info.TTL != time.Hour {
			t.Fatalf("lookup: %+v, %v", info, err)
		}
		got, err := c.Redeem(t.Context(), tok.Token)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(key) {
			t.Error("another key came back")
		}
		for range 2 {
			if _, err := c.Redeem(t.Context(), tok.Token); !errors.Is(err, kms.ErrUsed) || kms.MaybeSpent(err) {
				t.Errorf("second redemption: %v, want ErrUsed", err)
			}
		}
		if _, err := c.Lookup(t.Context(), tok.Token); !errors.Is(err, kms.ErrUsed) {
			t.Errorf("lookup of a used token: %v, want ErrUsed", err)
		}
	})
}

func TestOfFourRacingRedeemersExactlyOneWins(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		real := strings.HasSuffix(t.Name(), "/real")
		for round := range 15 {
			key := newKey(t)
			tok := mustWrap(t, k, key, time.Hour)
			var (
				wg   sync.WaitGroup
				errs [4]error
			)
			start := make(chan struct{})
			for i := range errs {
				c := k.client(t)
				wg.Go(func() {
					<-start
					got, err := c.Redeem(context.Background(), tok.Token)
					if err == nil && !got.Equal(key) {
						err = errors.New("another key came back")
					}
					errs[i] = err
				})
			}
			close(start)
			wg.Wait()
			won := 0
			for _, err := range errs {
				if err == nil {
					won++
				} else if !errors.Is(err, kms.ErrUsed) && !(real && kms.MaybeSpent(err)) {
					// Vault was seen to answer one loser in some hundred with 500.
					t.Errorf("round %d: a loser got %v, want ErrUsed", round, err)
				}
			}
			if won != 1 {
				t.Fatalf("round %d: %d winners", round, won)
			}
		}
	})
}

func TestATokenStopsWorkingWhenItsTimeIsOver(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		tok := mustWrap(t, k, newKey(t), time.Second)
		time.Sleep(2500 * time.Millisecond) // stored times are whole seconds
		_, err := k.client(t).Redeem(t.Context(), tok.Token)
		if !errors.Is(err, kms.ErrUsed) && !errors.Is(err, kms.ErrExpired) {
			t.Fatalf("redeeming after the TTL: %v, want ErrExpired or ErrUsed", err)
		}
	})
}

func TestARevokedTokenCannotBeRedeemed(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		tok := mustWrap(t, k, newKey(t), time.Hour)
		c := k.client(t)
		if err := c.Revoke(t.Context(), k.user, tok.Accessor); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Redeem(t.Context(), tok.Token); !errors.Is(err, kms.ErrUsed) {
			t.Errorf("redeeming a revoked token: %v, want ErrUsed", err)
		}
		if err := c.Revoke(t.Context(), k.user, tok.Accessor); !errors.Is(err, kms.ErrUsed) {
			t.Errorf("revoking twice: %v, want ErrUsed", err)
		}
		used := mustWrap(t, k, newKey(t), time.Hour)
		if _, err := c.Redeem(t.Context(), used.Token); err != nil {
			t.Fatal(err)
		}
		if err := c.Revoke(t.Context(), k.user, used.Accessor); !errors.Is(err, kms.ErrUsed) {
			t.Errorf("revoking a used token: %v, want ErrUsed", err)
		}
		nobody := secret.New([]byte(stranger))
		kept := mustWrap(t, k, newKey(t), time.Hour)
		if err := c.Revoke(t.Context(), nobody, kept.Accessor); !errors.Is(err, kms.ErrDenied) {
			t.Errorf("revoking as a stranger: %v, want ErrDenied", err)
		}
		if _, err := c.Redeem(t.Context(), kept.Token); err != nil {
			t.Errorf("a token that a stranger tried to revoke: %v", err)
		}
	})
}

func TestOnlyAUserMayWrap(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		c := k.client(t)
		nobody := secret.New([]byte(stranger))
		_, err := c.Wrap(t.Context(), nobody, newKey(t), time.Hour)
		if !errors.Is(err, kms.ErrDenied) {
			t.Errorf("wrapping as a stranger: %v, want ErrDenied", err)
		}
		// A wrapping token opens what it wraps and allows nothing else.
		tok := mustWrap(t, k, newKey(t), time.Hour)
		if _, err := c.Wrap(t.Context(), tok.Token, newKey(t), time.Hour); err == nil {
			t.Error("a wrapping token could wrap")
		}
	})
}

func TestAWrappingTokenHasOneUseWhateverItIsUsedFor(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		key := newKey(t)
		tok := mustWrap(t, k, key, time.Hour)
		c := k.client(t)
		if _, err := c.WhoHolds(t.Context(), tok.Token); !errors.Is(err, kms.ErrDenied) {
			t.Errorf("asking who holds it: %v, want ErrDenied", err)
		}
		// Vault counts what it refuses as the one use (num_uses is 1), the
		// embedded server does not. No server gives it two.
		got, err := c.Redeem(t.Context(), tok.Token)
		if err == nil && !got.Equal(key) || err != nil && !errors.Is(err, kms.ErrUsed) {
			t.Errorf("redeeming it then: %v", err)
		}
		if _, err := c.Redeem(t.Context(), tok.Token); !errors.Is(err, kms.ErrUsed) {
			t.Errorf("and again: %v, want ErrUsed", err)
		}
	})
}

func TestAUnknownTokenIsReportedAsGone(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		for _, s := range []string{"hvs.CAESIAAAAAAAAAAAAAAAAAAA", "s.0123456789abcdefghijklmn", "x"} {
			if _, err := k.client(t).Redeem(t.Context(), secret.New([]byte(s))); !errors.Is(err, kms.ErrUsed) {
				t.Errorf("redeeming an unknown token: %v, want ErrUsed", err)
			}
		}
	})
}

func TestTheServersClockAndUserAreTold(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		c := k.client(t)
		now, err := c.ServerTime(t.Context())
		if err != nil || time.Since(now).Abs() > time.Minute {
			t.Errorf("server time %v, %v", now, err)
		}
		if h, err := c.WhoHolds(t.Context(), k.user); err != nil || h.Name == "" {
			t.Errorf("user %q, %v", h.Name, err)
		}
	})
}

// What follows asks through the stock OpenBao client, so that a difference
// between the embedded server and a real one shows.

func TestTheStockClientWrapsLooksUpAndUnwrapsOnce(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		user := k.stock(t, string(k.user.Reveal()))
		user.SetWrappingLookupFunc(func(string, string) string { return "300s" })
		w, err := user.Logical().Write("sys/wrapping/wrap", map[string]any{"a": "b", "n": 1})
		if err != nil {
			t.Fatal(err)
		}
		if w.WrapInfo == nil || w.WrapInfo.TTL != 300 || w.WrapInfo.CreationPath != "sys/wrapping/wrap" {
			t.Fatalf("wrap info: %+v", w.WrapInfo)
		}
		l, err := k.stock(t, "").Logical().Write("sys/wrapping/lookup", map[string]any{"token": w.WrapInfo.Token})
		if err != nil || l.Data["creation_path"] != "sys/wrapping/wrap" {
			t.Fatalf("lookup: %+v, %v", l, err)
		}
		// By a user's token, with the wrapping token in the body.
		user.SetWrappingLookupFunc(func(string, string) string { return "" })
		u, err := user.Logical().Unwrap(w.WrapInfo.Token)
		if err != nil || u.Data["a"] != "b" {
			t.Fatalf("unwrap: %+v, %v", u, err)
		}
		// By the wrapping token itself, as X-Vault-Token.
		_, err = k.stock(t, "").Logical().Unwrap(w.WrapInfo.Token)
		wantError(t, err, 400, "wrapping token is not valid or does not exist")
	})
}

func TestErrorsHaveTheShapeThatVaultClientsExpect(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		_, err := k.stock(t, "nobody").Logical().Write("sys/wrapping/wrap", map[string]any{"a": "b"})
		wantError(t, err, 403, "permission denied")
		_, err = k.stock(t, "").Logical().Write("sys/wrapping/lookup", map[string]any{"token": "nothing"})
		wantError(t, err, 400, "wrapping token is not valid or does not exist")
		user := k.stock(t, string(k.user.Reveal()))
		user.SetWrappingLookupFunc(func(string, string) string { return "" })
		_, err = user.Logical().Write("sys/wrapping/wrap", map[string]any{"a": "b"})
		wantError(t, err, 400, "endpoint requires response wrapping to be used")
	})
}

func TestTheStockClientReadsHealthSealStatusAndItself(t *testing.T) {
	each(t, func(t *testing.T, k target) {
		c := k.stock(t, string(k.user.Reveal()))
		h, err := c.Sys().Health()
		if err != nil || !h.Initialized || h.Sealed {
			t.Errorf("health: %+v, %v", h, err)
		}
		s, err := c.Sys().SealStatus()
		if err != nil || !s.Initialized || s.Sealed {
			t.Errorf("seal status: %+v, %v", s, err)
		}
		if l, err := c.Sys().Leader(); err != nil {
			t.Errorf("leader: %+v, %v", l, err)
		}
		self, err := c.Auth().Token().LookupSelf()
		if err != nil {
			t.Fatal(err)
		}
		if id, err := self.TokenID(); err != nil || id != string(k.user.Reveal()) {
			t.Errorf("lookup-self has no id: %v", err)
		}
	})
}

// The embedded server alone: a real one leaves this to its own policies.
func TestTheStockClientOfAnOperatorListsLooksUpAndRevokesAnybodysTokens(t *testing.T) {
	k := embedded(t)
	token, err := (server.State{Dir: k.dir}).AddUser("olga", "operator")
	if err != nil {
		t.Fatal(err)
	}
	alices := mustWrap(t, k, newKey(t), time.Hour)
	operator := k.stock(t, string(token.Reveal()))
	list, err := operator.Logical().List("auth/token/accessors")
	if err != nil || list == nil {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if keys, ok := list.Data["keys"].([]any); !ok || len(keys) != 1 || keys[0] != alices.Accessor {
		t.Errorf("list: %+v", list.Data)
	}
	page, err := operator.Logical().ListPage("auth/token/accessors", "", 1)
	if keys, ok := page.Data["keys"].([]any); err != nil || !ok || len(keys) != 1 {
		t.Errorf("a page: %+v, %v", page, err)
	}
	page, err = operator.Logical().ListPage("auth/token/accessors", alices.Accessor, 1)
	if keys, ok := page.Data["keys"].([]any); err != nil || !ok || len(keys) != 0 {
		t.Errorf("the page after it: %+v, %v", page, err)
	}
	about, err := operator.Auth().Token().LookupAccessor(alices.Accessor)
	if err != nil || about.Data["display_name"] != "alice" || about.Data["id"] != "" {
		t.Errorf("lookup: %+v, %v", about, err)
	}
	_, err = k.stock(t, string(k.user.Reveal())).Logical().List("auth/token/accessors")
	wantError(t, err, 403, "permission denied")
	operator.SetWrappingLookupFunc(func(string, string) string { return "300s" })
	_, err = operator.Logical().Write("sys/wrapping/wrap", map[string]any{"a": "b"})
	wantError(t, err, 403, "permission denied")
	if err := operator.Auth().Token().RevokeAccessor(alices.Accessor); err != nil {
		t.Fatal(err)
	}
	_, err = k.client(t).Redeem(t.Context(), alices.Token)
	if !errors.Is(err, kms.ErrUsed) {
		t.Errorf("redeeming what the operator revoked: %v, want ErrUsed", err)
	}
}

func wantError(t *testing.T, err error, status int, text string) {
	t.Helper()
	re, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		t.Errorf("%v, want an answer with status %d", err, status)
		return
	}
	if re.StatusCode != status || re.RawError || !strings.Contains(strings.Join(re.Errors, "\n"), text) {
		t.Errorf("status %d %q (%s), want %d with %q", re.StatusCode, re.Errors, http.StatusText(re.StatusCode), status, text)
	}
}
