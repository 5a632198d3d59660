package kms

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A login by OIDC, as OpenBao and Vault offer it: the KMS is the relying party.
// It makes state, nonce and PKCE verifier itself, and it alone talks to the
// provider; a client gets an address for a browser. What comes back reaches
// the KMS in one of three ways, and the role decides which:
//
//   - through a listener of the client's on this machine (Vault, OpenBao),
//   - straight from the browser, while the client polls (OpenBao's
//     callback_mode=direct),
//   - not at all: the user types a code (RFC 8628), while the client polls
//     (OpenBao's callback_mode=device).
//
// What binds it all to this process is a nonce of the client's own, which goes
// to the KMS and nowhere else.

// Flow is a login that waits for somebody at a browser.
type Flow struct {
	// URL is what the browser must open.
	URL string
	// UserCode is what the page will ask for, or "".
	UserCode string

	c        *Client
	mount    string
	nonce    string
	state    string // as it is in URL, or as the KMS said for polling
	interval time.Duration
}

const (
	// clientNonceBytes is 256 bits, more than the 20 letters that the stock
	// clients send.
	clientNonceBytes = 32
	maxAuthURL       = 8 << 10
	maxInterval      = time.Minute
)

// slowDownBy is RFC 8628's (section 3.5); tests do not wait so long.
var slowDownBy = 5 * time.Second

// errPending and errSlowDown are RFC 8628's words (section 3.5), which OpenBao
// sends for both kinds of polling.
var (
	errPending  = errors.New("nobody has logged in at the browser yet")
	errSlowDown = errors.New("the KMS wants to be asked less often")
)

// StartOIDC begins a login at auth/MOUNT. With role "" the method's default
// role counts. redirect is where a browser on this machine reaches the caller,
// http://localhost:PORT/oidc/callback; the role must allow it, but the port.
func (c *Client) StartOIDC(ctx context.Context, mount, role, redirect string) (*Flow, error) {
	const op = "asking for a login page"
	if err := CheckMount(mount); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if len(role) > maxName {
		return nil, fmt.Errorf("%s: the role's name is longer than %d bytes", op, maxName)
	}
	f, err := c.authURL(ctx, op, mount, role, redirect)
	if err != nil {
		return nil, err
	}
	// The server says nothing of the role's mode. A page that it wants to be
	// polled for, but that leads back here, is of the direct one, asked for
	// with the wrong address; so is one that it does not give, perhaps.
	if f.URL == "" || f.Polls() && f.redirect() == redirect {
		f, err = c.authURL(ctx, op, mount, role, c.address+"/v1/auth/"+mount+"/oidc/callback")
		if err != nil {
			return nil, err
		}
		if !f.Polls() {
			return nil, c.fail(op, ErrLogin, "there is no such role, or it does not allow to come back to "+redirect)
		}
	}
	if f.URL == "" {
		return nil, c.fail(op, ErrLogin, "there is no such role, or it does not allow to come back to "+redirect)
	}
	return f, nil
}

func (c *Client) authURL(ctx context.Context, op, mount, role, redirect string) (*Flow, error) {
	nonce := make([]byte, clientNonceBytes)
	rand.Read(nonce) // never fails (crypto/rand)
	f := &Flow{c: c, mount: mount, nonce: fmt.Sprintf("%x", nonce)}
	body, err := json.Marshal(map[string]string{"role": role, "redirect_uri": redirect, "client_nonce": f.nonce})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	answer, err := c.call(ctx, op, c.shared, request{method: http.MethodPut, path: "auth/" + mount + "/oidc/auth_url", body: body})
	if err != nil {
		return nil, refusedLogin(err)
	}
	if err := f.read(op, answer); err != nil {
		return nil, err
	}
	return f, nil
}

// read fills in what the KMS said. A page that it does not give leaves URL "".
func (f *Flow) read(op string, answer []byte) error {
	c := f.c
	var a struct {
		Data struct {
			AuthURL      string `json:"auth_url"`
			UserCode     string `json:"user_code"`
			State        string `json:"state"`
			PollInterval string `json:"poll_interval"` // seconds
		} `json:"data"`
	}
	if err := decode(answer, &a); err != nil {
		return c.fail(op, ErrMalformed, err.Error())
	}
	d := a.Data
	if d.AuthURL == "" {
		return nil
	}
	u, err := url.Parse(d.AuthURL)
	plain := func(s string) bool {
		return len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
	}
	switch {
	case err != nil || len(d.AuthURL) > maxAuthURL || u.Host == "" || u.User != nil || strings.ContainsFunc(d.AuthURL, func(r rune) bool { return r <= ' ' || r > '~' }):
		return c.fail(op, ErrMalformed, "its login page is not an address")
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return c.fail(op, ErrMalformed, "its login page is not https")
	case !plain(d.UserCode) || !plain(d.State):
		return c.fail(op, ErrMalformed, "no usable code or state in it")
	}
	f.URL, f.UserCode, f.state = d.AuthURL, d.UserCode, d.State
	if d.PollInterval != "" {
		n, err := strconv.ParseUint(d.PollInterval, 10, 16)
		f.interval = time.Duration(n) * time.Second
		if err != nil || n == 0 || f.interval > maxInterval || f.state == "" {
			return c.fail(op, ErrMalformed, "it does not say how to poll")
		}
		return nil
	}
	if f.state = u.Query().Get("state"); f.state == "" || !plain(f.state) {
		return c.fail(op, ErrMalformed, "its login page has no state")
	}
	return nil
}

func isLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// redirect is where the page will lead back to, or "".
func (f *Flow) redirect() string {
	u, err := url.Parse(f.URL)
	if err != nil {
		return ""
	}
	return u.Query().Get("redirect_uri")
}

// Polls reports whether Wait completes the login; else Finish does.
func (f *Flow) Polls() bool { return f.interval > 0 }

// Wait asks the KMS again and again until somebody has logged in, the KMS says
// no, or ctx ends.
func (f *Flow) Wait(ctx context.Context) (Login, error) {
	const op = "waiting for the login"
	body, err := json.Marshal(map[string]string{"state": f.state, "client_nonce": f.nonce})
	if err != nil {
		return Login{}, fmt.Errorf("%s: %w", op, err)
	}
	for interval := f.interval; ; {
		select {
		case <-ctx.Done():
			return Login{}, fmt.Errorf("%s: %w", op, ctx.Err())
		case <-time.After(interval):
		}
		answer, err := f.c.call(ctx, op, f.c.shared, request{method: http.MethodPut, path: "auth/" + f.mount + "/oidc/poll", body: body})
		switch {
		case err == nil:
			return f.c.readLogin(op, answer)
		case errors.Is(err, errSlowDown):
			interval = min(interval+slowDownBy, maxInterval)
		case !errors.Is(err, errPending):
			return Login{}, refusedLogin(err)
		}
	}
}

// Came reports whether state is this login's: a listener gets what any page in
// the browser sends there.
func (f *Flow) Came(state string) bool {
	return subtle.ConstantTimeCompare([]byte(state), []byte(f.state)) == 1
}

// Finish hands the KMS what the browser brought back.
func (f *Flow) Finish(ctx context.Context, state, code string) (Login, error) {
	const op = "completing the login"
	if !f.Came(state) {
		return Login{}, fmt.Errorf("%s: what came back belongs to another login", op)
	}
	q := url.Values{"state": {state}, "code": {code}, "client_nonce": {f.nonce}}
	answer, err := f.c.call(ctx, op, f.c.shared, request{method: http.MethodGet, path: "auth/" + f.mount + "/oidc/callback", query: q})
	if err != nil {
		return Login{}, refusedLogin(err)
	}
	return f.c.readLogin(op, answer)
}
