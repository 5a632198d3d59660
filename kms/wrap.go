package kms

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"cloister/secret"
)

// MaxTTL is the longest life that Wrap asks for: a year. A server has its own,
// lower limit.
const MaxTTL = 365 * 24 * time.Hour

// Token is a single-use wrapping token.
type Token struct {
	Token        secret.Bytes
	Accessor     string    // names the token for Revoke; it does not open it
	Expires      time.Time // by the KMS's clock; may be sooner than was asked for
	CreationPath string
}

// Info is what Lookup tells about a token that is still there.
type Info struct {
	CreationPath string
	Created      time.Time
	TTL          time.Duration
}

// Expires is when the token stops working, by the KMS's clock.
func (i Info) Expires() time.Time { return i.Created.Add(i.TTL) }

// Wrap stores a job key behind a fresh wrapping token that lives for ttl
// (whole seconds, at most MaxTTL; the server may make it shorter: see
// Token.Expires). It needs the token of a user who may wrap. The key is not
// wiped: a job has one key behind many tokens.
func (c *Client) Wrap(ctx context.Context, userToken, jobKey secret.Bytes, ttl time.Duration) (Token, error) {
	const op = "wrapping a job key"
	if ttl < time.Second || ttl > MaxTTL || ttl%time.Second != 0 {
		return Token{}, fmt.Errorf("%s: life of %v is not a whole number of seconds between 1 s and %v", op, ttl, MaxTTL)
	}
	if err := checkToken(userToken); err != nil {
		return Token{}, c.fail(op, ErrDenied, "your "+err.Error())
	}
	body, err := encodePayload(jobKey)
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w", op, err)
	}
	defer body.Wipe()
	answer, err := c.call(ctx, op, c.shared, request{
		method: http.MethodPut, path: WrapPath, token: userToken, wrapTTL: ttl, body: body.Reveal(),
	})
	if err != nil {
		return Token{}, err
	}
	defer clear(answer)
	var a struct {
		WrapInfo struct {
			Token        string    `json:"token"`
			Accessor     string    `json:"accessor"`
			TTL          int64     `json:"ttl"` // seconds
			CreationTime time.Time `json:"creation_time"`
			CreationPath string    `json:"creation_path"`
		} `json:"wrap_info"`
	}
	if err := decode(answer, &a); err != nil {
		return Token{}, c.fail(op, ErrMalformed, err.Error())
	}
	w := a.WrapInfo
	t := Token{Token: secret.New([]byte(w.Token)), Accessor: w.Accessor, CreationPath: w.CreationPath}
	bad := ""
	switch {
	case checkToken(t.Token) != nil:
		bad = "no usable token in it"
	case len(w.Accessor) > maxToken || strings.ContainsFunc(w.Accessor, func(r rune) bool { return r <= ' ' || r > '~' }):
		bad = "no usable accessor in it"
	case w.CreationPath != WrapPath:
		bad = "its creation path is not " + WrapPath
	case w.TTL < 1 || w.TTL > int64(MaxTTL/time.Second):
		bad = "its time to live makes no sense"
	case w.CreationTime.IsZero():
		bad = "no creation time in it"
	}
	if bad != "" {
		t.Token.Wipe()
		return Token{}, c.fail(op, ErrMalformed, bad)
	}
	t.Expires = w.CreationTime.Add(time.Duration(w.TTL) * time.Second)
	return t, nil
}

// Revoke ends an unused wrapping token of the same user, by its accessor. A
// token that is no longer there is ErrUsed: there was nothing to revoke.
func (c *Client) Revoke(ctx context.Context, userToken secret.Bytes, accessor string) error {
	const op = "revoking a token"
	if err := checkToken(userToken); err != nil {
		return c.fail(op, ErrDenied, "your "+err.Error())
	}
	if accessor == "" || len(accessor) > maxToken || strings.ContainsFunc(accessor, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return fmt.Errorf("%s: not an accessor", op)
	}
	answer, err := c.call(ctx, op, c.shared, request{
		method: http.MethodPost, path: "auth/token/revoke-accessor", token: userToken,
		body: []byte(`{"accessor":"` + accessor + `"}`),
	})
	if err != nil || len(answer) == 0 {
		return err
	}
	defer clear(answer)
	var a struct {
		Warnings []string `json:"warnings"`
	}
	if err := decode(answer, &a); err != nil {
		return c.fail(op, ErrMalformed, err.Error())
	}
	// Newer servers say so in an answer, not in an error.
	if slices.Contains(a.Warnings, noAccessor) {
		return c.fail(op, ErrUsed, "")
	}
	return nil
}
