package kms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"cloister/secret"
)

// Lookup tells what a wrapping token is without using it.
func (c *Client) Lookup(ctx context.Context, token secret.Bytes) (Info, error) {
	tr := c.newTransport()
	defer tr.CloseIdleConnections()
	return c.lookup(ctx, "looking up a token", tr, token)
}

func (c *Client) lookup(ctx context.Context, op string, tr *http.Transport, token secret.Bytes) (Info, error) {
	if err := checkToken(token); err != nil {
		return Info{}, c.fail(op, ErrDenied, err.Error())
	}
	// checkToken leaves printable ASCII, so only these two need escaping.
	body := secret.Alloc(0)
	if b, err := json.Marshal(struct {
		Token string `json:"token"`
	}{string(token.Reveal())}); err == nil {
		body = secret.New(b)
	}
	defer body.Wipe()
	// Vault answers 204 when the token goes while it is looked up.
	answer, err := c.call(ctx, op, tr, request{method: http.MethodPut, path: "sys/wrapping/lookup", body: body.Reveal(), goneIfEmpty: true})
	if err != nil {
		return Info{}, err
	}
	var a struct {
		Data struct {
			CreationPath string    `json:"creation_path"`
			CreationTime time.Time `json:"creation_time"`
			CreationTTL  int64     `json:"creation_ttl"` // seconds
		} `json:"data"`
	}
	if err := decode(answer, &a); err != nil {
		return Info{}, c.fail(op, ErrMalformed, err.Error())
	}
	d := a.Data
	if d.CreationPath == "" || d.CreationTime.IsZero() || d.CreationTTL < 1 || d.CreationTTL > int64(MaxTTL/time.Second) {
		return Info{}, c.fail(op, ErrMalformed, "no usable creation path and time in it")
	}
	return Info{d.CreationPath, d.CreationTime, time.Duration(d.CreationTTL) * time.Second}, nil
}

// Redeem exchanges the token for the job key, once. It looks the token up
// first and refuses one that was not made by WrapPath. It never asks twice:
// when the answer is lost the token may be gone, which MaybeSpent tells.
// Write down that the token is about to be used before calling it.
func (c *Client) Redeem(ctx context.Context, token secret.Bytes) (secret.Bytes, error) {
	const op = "redeeming a token"
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// A connection of its own, so that nothing of another redemption can
	// be mistaken for this one's answer; both requests share it.
	tr := c.newTransport()
	defer tr.CloseIdleConnections()
	info, err := c.lookup(ctx, op, tr, token)
	if err != nil {
		return secret.Bytes{}, err
	}
	if info.CreationPath != WrapPath {
		return secret.Bytes{}, c.fail(op, ErrForeign, "")
	}
	answer, err := c.call(ctx, op, tr, request{method: http.MethodPut, path: "sys/wrapping/unwrap", token: token})
	if err != nil {
		return secret.Bytes{}, afterUnwrap(err, info)
	}
	key, err := decodePayload(answer)
	if err != nil {
		e := c.fail(op, ErrMalformed, err.Error())
		e.MaybeSpent = true
		return secret.Bytes{}, e
	}
	return key, nil
}

// afterUnwrap adds what is known once the unwrap request may have been sent.
// A plain refusal is definite: this request did not redeem the token.
func afterUnwrap(err error, info Info) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	switch {
	case e.Kind == ErrUsed && time.Now().After(info.Expires()):
		e.Kind = ErrExpired
	case e.Kind == ErrUnreachable || e.Kind == ErrMalformed || e.Kind == ErrTLS:
		e.MaybeSpent = true
	}
	return e
}
