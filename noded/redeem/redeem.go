// Package redeem exchanges a token for a job key in a process that lives for
// that alone.
//
// The token and the KMS's answer pass through buffers of TLS, HTTP and JSON
// that no code can wipe. A process gives all its memory back to the kernel
// when it ends, whatever is in it, and a secure node's kernel overwrites what
// it gets (init_on_free=1); the daemon would keep it for weeks. The process
// has no rights either: what a hostile KMS answers is parsed by nobody's.
//
// It refuses what package kms refuses, and asks once.
package redeem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"cloister/kms"
	"cloister/noded/helper"
	"cloister/noded/memfile"
	"cloister/secret"
)

const (
	// nobody is the overflow user (systemd.io/UIDS-GIDS): it owns nothing.
	nobody = 65534
	// startLimit is what a process may take to start and end, besides the
	// KMS's own time-out: 0.3 s are usual in an emulated guest.
	startLimit = 10 * time.Second
	// maxToken is above what package kms takes, in bytes.
	maxToken = 8 << 10
)

var verb = helper.Register("redeem", handle)

// A Client redeems tokens at one KMS.
type Client struct{ config kms.Config }

// New checks the configuration. It does not connect.
func New(c kms.Config) (*Client, error) {
	if _, err := kms.New(c); err != nil {
		return nil, err
	}
	if c.Timeout == 0 {
		c.Timeout = kms.DefaultTimeout
	}
	return &Client{c}, nil
}

// Redeem is kms.Client.Redeem, with the same errors. A helper that died or was
// late may have used the token up: kms.MaybeSpent.
func (c *Client) Redeem(ctx context.Context, token secret.Bytes) (secret.Bytes, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout+startLimit)
	defer cancel()
	in, err := memfile.New("cloister-token", token.Reveal())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("redeeming a token: %w", err)
	}
	defer in.Close()
	var failed *failure
	out, err := verb.Run(ctx, &helper.User{UID: nobody, GID: nobody}, c.config, []*os.File{in}, &failed)
	switch {
	case err != nil:
		return secret.Bytes{}, c.lost(err)
	case failed != nil:
		return secret.Bytes{}, failed.err()
	case len(out) != 1:
		return secret.Bytes{}, c.lost(fmt.Errorf("the helper sent %d files", len(out)))
	}
	defer out[0].Close()
	b, err := memfile.Read(out[0], kms.JobKeySize)
	if err != nil {
		return secret.Bytes{}, c.lost(err)
	}
	return secret.New(b), nil
}

// lost is for an answer that did not come this far.
func (c *Client) lost(err error) error {
	return &kms.Error{Op: "redeeming a token", Address: c.config.Address, Kind: kms.ErrUnreachable, Cause: err.Error(), MaybeSpent: true}
}

// handle runs in the helper.
func handle(request []byte, files []*os.File) (any, []*os.File, error) {
	var config kms.Config
	if err := json.Unmarshal(request, &config); err != nil {
		return nil, nil, err
	}
	if len(files) != 1 {
		return nil, nil, errors.New("no token was given")
	}
	token, err := memfile.Read(files[0], maxToken)
	if err != nil {
		return nil, nil, err
	}
	client, err := kms.New(config)
	if err != nil {
		return nil, nil, err
	}
	key, err := client.Redeem(context.Background(), secret.New(token)) // the client's own time-out bounds it
	if err != nil {
		f, err := describe(err)
		return f, nil, err
	}
	out, err := memfile.New("cloister-job-key", key.Reveal())
	if err != nil {
		return nil, nil, err
	}
	return nil, []*os.File{out}, nil
}
