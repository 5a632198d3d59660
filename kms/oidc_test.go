package kms_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/kms"
)

// oidcServer answers as OpenBao documents the API of its jwt method, and Vault
// the part without polling. The provider behind it is left out.
type oidcServer struct {
	mode      string // client, direct or device
	redirects []string

	mu    sync.Mutex
	nonce map[string]string // by state
	polls []string          // what the next polls say; then they succeed
	asked int
}

func (o *oidcServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var in map[string]string
	_ = json.NewDecoder(r.Body).Decode(&in)
	refuse := func(text string) {
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"errors":[%q]}`, text)
	}
	const success = `{"auth":{"client_token":"s.oidc","lease_duration":3600}}`
	switch r.Method + " " + r.URL.Path {
	case "PUT /v1/auth/oidc/oidc/auth_url":
		if in["role"] == "nobody" {
			refuse(`role "nobody" could not be found`)
			return
		}
		allowed := o.mode == "device"
		for _, u := range o.redirects {
			allowed = allowed || u == in["redirect_uri"]
		}
		if !allowed {
			fmt.Fprint(w, `{"data":{"auth_url":""}}`)
			return
		}
		state := fmt.Sprintf("st_%d", len(o.nonce))
		if o.nonce == nil {
			o.nonce = make(map[string]string)
		}
		o.nonce[state] = in["client_nonce"]
		page := "https://idp.example.org/auth?" + url.Values{"state": {state}, "redirect_uri": {in["redirect_uri"]}, "code_challenge": {"x"}}.Encode()
		d := map[string]string{"auth_url": page}
		if o.mode != "client" {
			d["state"], d["poll_interval"] = state, "1"
		}
		if o.mode == "device" {
			d["auth_url"], d["user_code"] = "https://idp.example.org/device", "ABCD-EFGH"
		}
		b, _ := json.Marshal(map[string]any{"data": d})
		w.Write(b)
	case "GET /v1/auth/oidc/oidc/callback":
		q := r.URL.Query()
		if n, ok := o.nonce[q.Get("state")]; !ok || n != q.Get("client_nonce") || q.Get("code") != "good" {
			refuse("Vault login failed. Expired or missing OAuth state.")
			return
		}
		delete(o.nonce, q.Get("state"))
		fmt.Fprint(w, success)
	case "PUT /v1/auth/oidc/oidc/poll":
		o.asked++
		if n, ok := o.nonce[in["state"]]; !ok || n != in["client_nonce"] {
			refuse("invalid client_nonce")
			return
		}
		if len(o.polls) > 0 {
			text := o.polls[0]
			o.polls = o.polls[1:]
			refuse(text)
			return
		}
		fmt.Fprint(w, success)
	default:
		w.WriteHeader(404)
	}
}

const here = "http://localhost:8250/oidc/callback"

func TestABrowserBringsTheCodeBackToTheClient(t *testing.T) {
	o := &oidcServer{mode: "client", redirects: []string{here}}
	f, err := hostile(t, 5*time.Second, o).StartOIDC(t.Context(), kms.OIDCMount, "researcher", here)
	if err != nil {
		t.Fatal(err)
	}
	if f.Polls() || !strings.HasPrefix(f.URL, "https://idp.example.org/auth?") {
		t.Errorf("%+v", f)
	}
	if len(o.nonce["st_0"]) < 40 {
		t.Errorf("client nonce %q", o.nonce["st_0"])
	}
	if strings.Contains(f.URL, o.nonce["st_0"]) {
		t.Error("the client's nonce is in the browser")
	}
	if f.Came("") || f.Came("st_1") || !f.Came("st_0") {
		t.Error("takes another login's state for its own")
	}
	if _, err := f.Finish(t.Context(), "st_1", "good"); err == nil || len(o.nonce) != 1 {
		t.Errorf("another login's code was passed on: %v", err)
	}
	l, err := f.Finish(t.Context(), "st_0", "good")
	if err != nil || string(l.Token.Reveal()) != "s.oidc" || l.Life != time.Hour {
		t.Errorf("%v, %v", l.Life, err)
	}
	if _, err := f.Finish(t.Context(), "st_0", "good"); !errors.Is(err, kms.ErrLogin) {
		t.Errorf("twice: %v", err)
	}
}

func TestADeviceLoginPollsUntilSomebodyHasTypedTheCode(t *testing.T) {
	defer kms.SlowDownBy(time.Millisecond)()
	o := &oidcServer{mode: "device", polls: []string{"authorization_pending", "slow_down", "authorization_pending"}}
	f, err := hostile(t, 5*time.Second, o).StartOIDC(t.Context(), kms.OIDCMount, "", here)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Polls() || f.UserCode != "ABCD-EFGH" || f.URL != "https://idp.example.org/device" {
		t.Errorf("%+v", f)
	}
	l, err := f.Wait(t.Context())
	if err != nil || string(l.Token.Reveal()) != "s.oidc" || o.asked != 4 {
		t.Errorf("after %d polls: %v", o.asked, err)
	}
	o.polls = []string{"authorization failed: access_denied"}
	if _, err := f.Wait(t.Context()); !errors.Is(err, kms.ErrLogin) {
		t.Errorf("denied: %v", err)
	}
	o.polls = []string{"authorization_pending"}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if _, err := f.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody came: %v", err)
	}
}

func TestADirectLoginLeadsBackToTheKMSItself(t *testing.T) {
	for name, allow := range map[string]string{"here is allowed too": here, "here is not allowed": "https://elsewhere.example.org"} {
		t.Run(name, func(t *testing.T) {
			o := &oidcServer{mode: "direct"}
			cl := hostile(t, 5*time.Second, o)
			back := cl.Address() + "/v1/auth/oidc/oidc/callback"
			o.redirects = []string{allow, back}
			f, err := cl.StartOIDC(t.Context(), kms.OIDCMount, "", here)
			if err != nil {
				t.Fatal(err)
			}
			if u, err := url.Parse(f.URL); err != nil || u.Query().Get("redirect_uri") != back || !f.Polls() {
				t.Errorf("page %s", f.URL)
			}
			if _, err := f.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestALoginPageThatIsNoneIsRefused(t *testing.T) {
	data := func(d string) http.HandlerFunc { return say(200, `{"data":`+d+`}`) }
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"nothing":       {data(`{"auth_url":""}`), kms.ErrLogin},
		"no such role":  {say(400, `{"errors":["role \"x\" could not be found"]}`), kms.ErrLogin},
		"no such path":  {say(403, `{"errors":["permission denied"]}`), kms.ErrLogin},
		"http":          {data(`{"auth_url":"http://idp.example.org/?state=CANARY"}`), kms.ErrMalformed},
		"javascript":    {data(`{"auth_url":"javascript:alert(1)"}`), kms.ErrMalformed},
		"file":          {data(`{"auth_url":"file:///etc/passwd"}`), kms.ErrMalformed},
		"escapes":       {data(`{"auth_url":"https://idp.example.org/\u001b[2J?state=x"}`), kms.ErrMalformed},
		"user":          {data(`{"auth_url":"https://idp.example.org@evil.example.org/?state=x"}`), kms.ErrMalformed},
		"no state":      {data(`{"auth_url":"https://idp.example.org/"}`), kms.ErrMalformed},
		"long":          {data(`{"auth_url":"https://idp.example.org/?state=x&y=` + strings.Repeat("y", 9000) + `"}`), kms.ErrMalformed},
		"code escapes":  {data(`{"auth_url":"https://idp.example.org/","user_code":"\u001b[2J","state":"x","poll_interval":"5"}`), kms.ErrMalformed},
		"interval 0":    {data(`{"auth_url":"https://idp.example.org/","state":"x","poll_interval":"0"}`), kms.ErrMalformed},
		"interval huge": {data(`{"auth_url":"https://idp.example.org/","state":"x","poll_interval":"9999"}`), kms.ErrMalformed},
		"poll for what": {data(`{"auth_url":"https://idp.example.org/","poll_interval":"5"}`), kms.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hostile(t, 5*time.Second, c.answer).StartOIDC(t.Context(), kms.OIDCMount, "", here)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			checkNoSecret(t, err)
		})
	}
}
