package kms

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/openbao/openbao/api/v2"
)

// What can go wrong, for errors.Is. Each is a different thing to do next.
var (
	// ErrUsed: the token is not there. Vault gives one answer for used,
	// revoked, expired and never made. Unless this node itself asked before
	// and lost the answer, it is an incident.
	ErrUsed = errors.New("the token is no longer there: used, revoked or expired (a KMS does not tell which)")
	// ErrExpired: the token's time is over and the KMS said so.
	ErrExpired = errors.New("the token has expired")
	// ErrForeign: the token was not made by sys/wrapping/wrap, so somebody
	// re-wrapped it. It is an incident, and the token was not redeemed.
	ErrForeign = errors.New("the token was not made by " + WrapPath)
	// ErrUnreachable: no connection, no answer in time, or a server that
	// says that it cannot serve now.
	ErrUnreachable = errors.New("the KMS cannot be reached")
	// ErrMalformed: an answer that breaks the protocol or the limits.
	ErrMalformed = errors.New("the KMS gave a malformed answer")
	// ErrTLS: the server is not the one that the CA vouches for.
	ErrTLS = errors.New("the KMS cannot prove who it is")
	// ErrLimit: the user has as many unused tokens as the KMS allows.
	ErrLimit = errors.New("the KMS holds too many unused tokens of yours")
	// ErrDenied: the KMS refuses this token or what was asked.
	ErrDenied = errors.New("the KMS refuses")
)

// Error is what every operation of a Client returns. Its text is one line, and
// holds no secret and nothing that the server wrote.
type Error struct {
	Op      string // what was being done: "redeeming a token"
	Address string
	Kind    error  // one of the errors above
	Cause   string // may be empty
	// MaybeSpent is set when a redemption was sent and its outcome is not
	// known: the token may be gone with its answer lost.
	MaybeSpent bool

	ctx    error // context.Canceled or DeadlineExceeded, when that was it
	status int   // of an answer that refused, else 0
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s at %s: %v", e.Op, e.Address, e.Kind)
	if e.Cause != "" {
		s += ": " + e.Cause
	}
	return s
}

// Unwrap gives the kind, and the context's error when that was the cause.
func (e *Error) Unwrap() []error {
	if e.ctx != nil {
		return []error{e.Kind, e.ctx}
	}
	return []error{e.Kind}
}

// MaybeSpent reports whether the token of a failed Redeem may have been used
// up all the same. If so, redeem a spare one, not this one.
func MaybeSpent(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.MaybeSpent
}

// Hint is one line that says what to do next, or "" for an error not of this
// package.
func Hint(err error) string {
	switch {
	case errors.Is(err, ErrExpired):
		return "the job waited longer than its expiry: seal it again"
	case errors.Is(err, ErrUsed), errors.Is(err, ErrForeign):
		return "somebody else may have used the token: tell your security officer, then seal the job again"
	case errors.Is(err, ErrTLS):
		return "check that the site file is the administrator's newest, and that the clock is right; do not go on without"
	case errors.Is(err, ErrLimit):
		return "revoke the tokens of jobs that will not run, or wait until they expire"
	case errors.Is(err, ErrLogin):
		return "check name, password and role, or ask the KMS's administrator; --path says where the method is, if not at its usual place"
	case errors.Is(err, ErrDenied):
		return "get a new token of your own: cloister login, or ask the KMS's administrator"
	case errors.Is(err, ErrUnreachable):
		return "check the address in the site file and that the KMS runs (cloister-kms status)"
	case errors.Is(err, ErrMalformed):
		return "check that the address in the site file is a Vault, OpenBao or cloister-kms server"
	}
	return ""
}

func (c *Client) fail(op string, kind error, cause string) *Error {
	return &Error{Op: op, Address: c.address, Kind: kind, Cause: cause}
}

// The texts by which a server tells these answers apart; OpenBao and Vault:
// vault/wrapping.go and vault/token_store.go. The others are the embedded
// server's additions.
const (
	tokenGone    = "wrapping token is not valid or does not exist"
	tokenGoing   = "no information found; wrapping token may be from a previous" // and then the server's name
	badAccessor  = "invalid accessor"
	noAccessor   = "No token found with this accessor"
	tokenExpired = "wrapping token has expired"
	pending      = "authorization_pending"
	slowDown     = "slow_down"
	tooMany      = "user has too many unused wrapping tokens"
)

// classify turns whatever the API client returned into an Error with a cause
// in our own words.
func (c *Client) classify(ctx context.Context, op string, err error) *Error {
	if re, ok := errors.AsType[*api.ResponseError](err); ok {
		return c.classifyAnswer(op, re)
	}
	if errors.Is(err, errAnswer) {
		return c.fail(op, ErrMalformed, err.Error())
	}
	if ctxErr := ctx.Err(); ctxErr != nil || isTimeout(err) {
		e := c.fail(op, ErrUnreachable, fmt.Sprintf("no complete answer within %v", c.timeout))
		e.ctx = context.DeadlineExceeded
		if errors.Is(ctxErr, context.Canceled) {
			e.Cause, e.ctx = "interrupted", ctxErr
		}
		return e
	}
	if cause := tlsCause(err); cause != "" {
		return c.fail(op, ErrTLS, cause)
	}
	var (
		dns *net.DNSError
		no  syscall.Errno
	)
	switch {
	case errors.As(err, &dns):
		return c.fail(op, ErrUnreachable, "its host name does not resolve")
	case errors.As(err, &no):
		return c.fail(op, ErrUnreachable, no.Error())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return c.fail(op, ErrUnreachable, "it closed the connection before the answer was complete")
	}
	// What is left comes from net/http's parser, whose texts quote the server.
	return c.fail(op, ErrMalformed, "not an HTTP answer")
}

func (c *Client) classifyAnswer(op string, re *api.ResponseError) *Error {
	e := c.kindOf(op, re)
	e.status = re.StatusCode
	return e
}

func (c *Client) kindOf(op string, re *api.ResponseError) *Error {
	said := func(text string) bool {
		for _, s := range re.Errors {
			if strings.Contains(s, text) {
				return true
			}
		}
		return false
	}
	status := fmt.Sprintf("status %d", re.StatusCode)
	switch {
	case re.StatusCode == 400 && said(tokenExpired):
		return c.fail(op, ErrExpired, "")
	case re.StatusCode == 400 && (said(tokenGone) || said(tokenGoing) || said(badAccessor)):
		return c.fail(op, ErrUsed, "")
	case re.StatusCode == 400 && said(pending):
		return c.fail(op, errPending, "")
	case re.StatusCode == 400 && said(slowDown):
		return c.fail(op, errSlowDown, "")
	case re.StatusCode == 429 && said(tooMany):
		return c.fail(op, ErrLimit, "")
	case re.StatusCode == 429:
		return c.fail(op, ErrUnreachable, "too many requests, "+status)
	case re.StatusCode >= 500:
		return c.fail(op, ErrUnreachable, "it is sealed, starting or failing, "+status)
	case re.StatusCode == 400, re.StatusCode == 401, re.StatusCode == 403:
		return c.fail(op, ErrDenied, status)
	}
	return c.fail(op, ErrMalformed, status)
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// tlsCause is "" when the error did not come from TLS.
func tlsCause(err error) string {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return "its certificate is expired or not yet valid"
		}
		return "its certificate is not valid"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another host"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is not from the site file's CA"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate does not verify"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "it broke off the TLS handshake"
	}
	// crypto/tls has no types for the rest; its own texts start so.
	if s := err.Error(); strings.Contains(s, "tls: ") || strings.Contains(s, "server gave HTTP response to HTTPS client") {
		return "the TLS handshake failed"
	}
	return ""
}
