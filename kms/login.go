package kms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"cloister/secret"
)

// The places where OpenBao and Vault mount these methods if nobody says, and
// the one that the embedded server has.
const (
	UserpassMount = "userpass"
	OIDCMount     = "oidc"
)

// ErrLogin: the KMS does not let this user in like this. It does not say what
// is wrong, the name, the password or the method's path, and no more does this.
var ErrLogin = errors.New("the KMS does not accept this login")

// Login is a token of the user's own.
type Login struct {
	Token secret.Bytes
	// Life is how long it lasts from now on; 0 is without end.
	Life time.Duration
}

var (
	// mountPath: an auth method's path below auth/, in parts as Vault allows
	// them, without those that a server would take for something else.
	mountPath = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]*(/[a-zA-Z0-9_-][a-zA-Z0-9._-]*)*$`)
	// loginName: OpenBao's and Vault's userpass take letters, digits, _, - and
	// ., and mail addresses by @.
	loginName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.@-]*$`)
)

// maxName bounds names, paths and roles.
const maxName = 256

// CheckMount refuses what is not the path of an auth method.
func CheckMount(mount string) error {
	if len(mount) > maxName || !mountPath.MatchString(mount) {
		return fmt.Errorf("%.40q is not the path of a login method", mount)
	}
	return nil
}

// LoginUserpass exchanges a password for a token, at auth/MOUNT/login/NAME.
func (c *Client) LoginUserpass(ctx context.Context, mount, name string, password secret.Bytes) (Login, error) {
	const op = "logging in"
	if err := CheckMount(mount); err != nil {
		return Login{}, fmt.Errorf("%s: %w", op, err)
	}
	if len(name) > maxName || !loginName.MatchString(name) {
		return Login{}, fmt.Errorf("%s: %.40q is not a user name", op, name)
	}
	body, err := passwordBody(password)
	if err != nil {
		return Login{}, fmt.Errorf("%s: %w", op, err)
	}
	defer body.Wipe()
	answer, err := c.call(ctx, op, c.shared, request{method: http.MethodPut, path: "auth/" + mount + "/login/" + name, body: body.Reveal()})
	if err != nil {
		return Login{}, refusedLogin(err)
	}
	return c.readLogin(op, answer)
}

// refusedLogin makes a refusal of a login what it is.
func refusedLogin(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		switch {
		case e.status == http.StatusNotFound:
			e.Kind, e.Cause = ErrLogin, "it has no such method there"
		case e.Kind == ErrDenied:
			e.Kind = ErrLogin
		}
	}
	return err
}

// readLogin reads the answer that all methods give, and wipes it.
func (c *Client) readLogin(op string, answer []byte) (Login, error) {
	defer clear(answer)
	var a struct {
		Auth *struct {
			ClientToken   string          `json:"client_token"`
			LeaseDuration int64           `json:"lease_duration"` // seconds
			MFA           json.RawMessage `json:"mfa_requirement"`
		} `json:"auth"`
	}
	if err := decode(answer, &a); err != nil {
		return Login{}, c.fail(op, ErrMalformed, err.Error())
	}
	if a.Auth == nil {
		return Login{}, c.fail(op, ErrMalformed, "no token in it")
	}
	if len(a.Auth.MFA) > 0 && string(a.Auth.MFA) != "null" {
		return Login{}, c.fail(op, ErrLogin, "it asks for a second factor, which only its own command line can give")
	}
	t := secret.New([]byte(a.Auth.ClientToken))
	if err := checkToken(t); err != nil || a.Auth.LeaseDuration < 0 || a.Auth.LeaseDuration > maxLife {
		t.Wipe()
		return Login{}, c.fail(op, ErrMalformed, "no usable token in it")
	}
	return Login{t, time.Duration(a.Auth.LeaseDuration) * time.Second}, nil
}

// maxLife is ten years, in seconds: more than any server gives a token.
const maxLife = int64(10 * 365 * 24 * time.Hour / time.Second)

// passwordBody is {"password":"…"}, written without a copy that stays.
func passwordBody(password secret.Bytes) (secret.Bytes, error) {
	p := password.Reveal()
	switch {
	case len(p) == 0:
		return secret.Bytes{}, errors.New("the password is empty")
	case len(p) > maxToken:
		return secret.Bytes{}, fmt.Errorf("the password is longer than %d bytes", maxToken)
	case !utf8.Valid(p):
		return secret.Bytes{}, errors.New("the password is not UTF-8")
	}
	const head, tail = `{"password":"`, `"}`
	out := secret.Alloc(len(head) + 6*len(p) + len(tail)) // \u0000 for each byte at most
	b := append(out.Reveal()[:0], head...)
	for _, x := range p {
		switch {
		case x == '"' || x == '\\':
			b = append(b, '\\', x)
		case x < ' ' || x == 0x7f:
			b = fmt.Appendf(b, `\u%04x`, x)
		default:
			b = append(b, x)
		}
	}
	b = append(b, tail...)
	short := secret.New(append([]byte(nil), b...))
	out.Wipe()
	return short, nil
}

// Holder is what a KMS knows of a token's holder.
type Holder struct {
	// Name is the server's name for who holds it, for example userpass-alice.
	Name string
	// Life is how long the token lasts from now on; 0 is without end.
	Life time.Duration
}

// WhoHolds asks the KMS about the user's own token.
func (c *Client) WhoHolds(ctx context.Context, userToken secret.Bytes) (Holder, error) {
	const op = "checking your token"
	if err := checkToken(userToken); err != nil {
		return Holder{}, c.fail(op, ErrDenied, "your "+err.Error())
	}
	answer, err := c.call(ctx, op, c.shared, request{method: http.MethodGet, path: "auth/token/lookup-self", token: userToken})
	if err != nil {
		return Holder{}, err
	}
	defer clear(answer)
	var a struct {
		Data struct {
			DisplayName string `json:"display_name"`
			TTL         int64  `json:"ttl"` // seconds
		} `json:"data"`
	}
	if err := decode(answer, &a); err != nil {
		return Holder{}, c.fail(op, ErrMalformed, err.Error())
	}
	name := a.Data.DisplayName
	if len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return Holder{}, c.fail(op, ErrMalformed, "no usable name in it")
	}
	if a.Data.TTL < 0 || a.Data.TTL > maxLife {
		return Holder{}, c.fail(op, ErrMalformed, "its time to live makes no sense")
	}
	return Holder{name, time.Duration(a.Data.TTL) * time.Second}, nil
}

// Logout revokes the user's own token. One that the KMS does not know, so is
// worthless already, is ErrDenied.
func (c *Client) Logout(ctx context.Context, userToken secret.Bytes) error {
	const op = "logging out"
	if err := checkToken(userToken); err != nil {
		return c.fail(op, ErrDenied, "your "+err.Error())
	}
	answer, err := c.call(ctx, op, c.shared, request{method: http.MethodPost, path: "auth/token/revoke-self", token: userToken})
	clear(answer)
	return err
}
