package kms_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloister/kms"
	"cloister/kms/server"
	"cloister/secret"
)

func (k target) login(t *testing.T) kms.Login {
	t.Helper()
	l, err := k.client(t).LoginUserpass(t.Context(), kms.UserpassMount, k.name, secret.New([]byte(k.password)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// eachWithUsers is each, without real servers that no user was named for.
func eachWithUsers(t *testing.T, f func(t *testing.T, k target)) {
	t.Helper()
	for name, k := range targets(t) {
		if k.dir != "" {
			k.name, k.password = "alice", "correct horse battery"
			if err := (server.State{Dir: k.dir}).SetPassword(k.name, secret.New([]byte(k.password))); err != nil {
				t.Fatal(err)
			}
		}
		if k.name != "" {
			t.Run(name, func(t *testing.T) { f(t, k) })
		}
	}
}

func TestAPasswordGivesATokenThatWrapsAndLogoutEndsIt(t *testing.T) {
	eachWithUsers(t, func(t *testing.T, k target) {
		c := k.client(t)
		l := k.login(t)
		if l.Life < time.Minute {
			t.Errorf("it lasts %v", l.Life)
		}
		h, err := c.WhoHolds(t.Context(), l.Token)
		if err != nil || !strings.Contains(h.Name, k.name) || h.Life > l.Life || h.Life < l.Life-time.Minute {
			t.Errorf("holder %+v of %v, %v", h, l.Life, err)
		}
		tok, err := c.Wrap(t.Context(), l.Token, newKey(t), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		other, err := c.Wrap(t.Context(), l.Token, newKey(t), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Revoke(t.Context(), l.Token, other.Accessor); err != nil {
			t.Errorf("revoking: %v", err)
		}
		if err := c.Logout(t.Context(), l.Token); err != nil {
			t.Fatal(err)
		}
		if _, err := c.WhoHolds(t.Context(), l.Token); !errors.Is(err, kms.ErrDenied) {
			t.Errorf("after logout: %v, want ErrDenied", err)
		}
		if err := c.Logout(t.Context(), l.Token); !errors.Is(err, kms.ErrDenied) {
			t.Errorf("logout twice: %v, want ErrDenied", err)
		}
		// A job that waits does not need who sealed it to stay logged in.
		if _, err := c.Redeem(t.Context(), tok.Token); err != nil {
			t.Errorf("a key that was wrapped before logout: %v", err)
		}
	})
}

func TestAWrongPasswordNameOrPathIsOneErrorWithoutTheSecret(t *testing.T) {
	eachWithUsers(t, func(t *testing.T, k target) {
		for name, c := range map[string][3]string{
			"password": {kms.UserpassMount, k.name, "CANARY CANARY"},
			"name":     {kms.UserpassMount, "nobody", "CANARY CANARY"},
		} {
			_, err := k.client(t).LoginUserpass(t.Context(), c[0], c[1], secret.New([]byte(c[2])))
			if !errors.Is(err, kms.ErrLogin) || kms.Hint(err) == "" {
				t.Errorf("wrong %s: %v, want ErrLogin", name, err)
			}
			checkNoSecret(t, err)
		}
		_, err := k.client(t).LoginUserpass(t.Context(), "nowhere", k.name, secret.New([]byte(k.password)))
		if err == nil || errors.Is(err, kms.ErrUnreachable) {
			t.Errorf("wrong path: %v", err)
		}
		checkNoSecret(t, err)
	})
}

func TestTheStockClientLogsInRenewsAndRevokes(t *testing.T) {
	eachWithUsers(t, func(t *testing.T, k target) {
		s, err := k.stock(t, "").Logical().Write("auth/userpass/login/"+k.name, map[string]any{"password": k.password})
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.TokenID()
		if err != nil || token == "" || s.Auth.LeaseDuration < 60 || !s.Auth.Renewable || s.Auth.Metadata["username"] != k.name {
			t.Fatalf("auth: %v", err)
		}
		c := k.stock(t, token)
		if r, err := c.Auth().Token().RenewSelf(3600); err != nil || r.Auth == nil || r.Auth.ClientToken != token || r.Auth.LeaseDuration < 60 {
			t.Errorf("renew: %v", err)
		}
		self, err := c.Auth().Token().LookupSelf()
		if err != nil {
			t.Fatal(err)
		}
		if ttl, err := self.TokenTTL(); err != nil || ttl < time.Minute {
			t.Errorf("ttl %v, %v", ttl, err)
		}
		if err := c.Auth().Token().RevokeSelf(""); err != nil {
			t.Errorf("revoke: %v", err)
		}
		_, err = c.Auth().Token().LookupSelf()
		wantError(t, err, 403, "permission denied")
		_, err = k.stock(t, "").Logical().Write("auth/userpass/login/"+k.name, map[string]any{"password": "wrong"})
		wantError(t, err, 400, "invalid username or password")
	})
}

func TestAnyPasswordArrivesAsItWasTyped(t *testing.T) {
	var got struct{ Password string }
	cl := hostile(t, 5*time.Second, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(b, &got); err != nil {
			t.Errorf("%q: %v", b, err)
		}
		io.WriteString(w, `{"auth":{"client_token":"s.x","lease_duration":60}}`)
	}))
	for _, p := range []string{"a", `"\`, "\x00\x01\x1f\x7f", "čšž €", "</script>", strings.Repeat("\x01", 1000)} {
		if _, err := cl.LoginUserpass(t.Context(), "userpass", "alice", secret.New([]byte(p))); err != nil || got.Password != p {
			t.Errorf("%q arrived as %q, %v", p, got.Password, err)
		}
	}
	for _, p := range []string{"", "\xff", strings.Repeat("x", 5000)} {
		if _, err := cl.LoginUserpass(t.Context(), "userpass", "alice", secret.New([]byte(p))); err == nil {
			t.Errorf("sent %.10q", p)
		}
	}
	for _, bad := range [][2]string{{"../sys", "alice"}, {"userpass", "../x"}, {"userpass", "a/b"}, {"a//b", "x"}, {"", "x"}, {"userpass", ""}, {"userpass", "a?b"}} {
		if _, err := cl.LoginUserpass(t.Context(), bad[0], bad[1], secret.New([]byte("x"))); err == nil || errors.Is(err, kms.ErrLogin) {
			t.Errorf("asked at %q for %q: %v", bad[0], bad[1], err)
		}
	}
}

func TestAHostileAnswerToALoginIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"no auth":        {say(200, `{"auth":null}`), kms.ErrMalformed},
		"no token":       {say(200, `{"auth":{"lease_duration":60}}`), kms.ErrMalformed},
		"odd token":      {say(200, `{"auth":{"client_token":"a\nCANARY","lease_duration":60}}`), kms.ErrMalformed},
		"life below 0":   {say(200, `{"auth":{"client_token":"s.CANARY","lease_duration":-1}}`), kms.ErrMalformed},
		"life too long":  {say(200, `{"auth":{"client_token":"s.CANARY","lease_duration":99999999999}}`), kms.ErrMalformed},
		"second factor":  {say(200, `{"auth":{"client_token":"","mfa_requirement":{"mfa_request_id":"CANARY"}}}`), kms.ErrLogin},
		"no content":     {say(204, ``), kms.ErrMalformed},
		"echo":           {say(400, `{"errors":["`+canary+`"]}`), kms.ErrLogin},
		"too many":       {say(429, `{"errors":["wait"]}`), kms.ErrUnreachable},
		"not the method": {say(404, `{"errors":[]}`), kms.ErrLogin},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hostile(t, 5*time.Second, c.answer).LoginUserpass(t.Context(), "userpass", "alice", secret.New([]byte("CANARY")))
			if !errors.Is(err, c.want) || kms.Hint(err) == "" {
				t.Errorf("%v, want %v", err, c.want)
			}
			checkNoSecret(t, err)
		})
	}
}
