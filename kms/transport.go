package kms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/openbao/openbao/api/v2"

	"cloister/secret"
)

const (
	// maxAnswer is some 50 times the longest answer that we expect (1.2 kB).
	maxAnswer = 64 << 10
	// maxAnswerHeader leaves room for the headers of a proxy in front.
	maxAnswerHeader = 16 << 10
)

// errAnswer marks an answer that broke one of our own limits; its texts are
// ours, so they may be shown.
var errAnswer = errors.New("answer refused")

type request struct {
	method, path string
	token        secret.Bytes
	query        url.Values
	wrapTTL      time.Duration
	body         []byte
	// goneIfEmpty: status 204 says that the token is not there.
	goneIfEmpty bool
}

func (c *Client) newTransport() *http.Transport {
	return &http.Transport{
		// Proxy stays nil: no proxy, whatever the environment says.
		DialContext:            (&net.Dialer{Timeout: c.timeout}).DialContext,
		TLSClientConfig:        c.tls.Clone(),
		TLSHandshakeTimeout:    c.timeout,
		ResponseHeaderTimeout:  c.timeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true,
		MaxIdleConns:           2,
		MaxConnsPerHost:        16,
		IdleConnTimeout:        10 * time.Second,
	}
}

// call sends one request, once, and returns the whole body of a 2xx answer.
// A POST or PUT is never sent twice: retries are off here, and net/http
// repeats only what is idempotent or was never written.
func (c *Client) call(ctx context.Context, op string, tr *http.Transport, q request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cl, err := api.NewClient(&api.Config{
		Address:            c.address,
		HttpClient:         &http.Client{Transport: guard{tr}, CheckRedirect: noRedirect},
		MaxRetries:         0,
		CheckRetry:         func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		Timeout:            c.timeout,
		DisableEnvironment: true,
		DisableRedirects:   true,
	})
	if err != nil {
		return nil, c.fail(op, ErrMalformed, "address not accepted by the API client")
	}
	if q.token.Len() > 0 {
		if err := checkToken(q.token); err != nil {
			return nil, c.fail(op, ErrDenied, err.Error())
		}
		cl.SetToken(string(q.token.Reveal()))
	}
	r := cl.NewRequest(q.method, "/v1/"+q.path)
	r.BodyBytes = q.body
	if q.query != nil {
		r.Params = q.query
	}
	r.WrapTTL = ""
	if q.wrapTTL > 0 {
		r.WrapTTL = fmt.Sprintf("%ds", q.wrapTTL/time.Second)
	}
	// The Logical methods would parse the key into strings that cannot be
	// wiped; so the raw answer is asked for.
	resp, err := cl.RawRequestWithContext(ctx, r)
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return nil, c.classify(ctx, op, err)
	}
	if q.goneIfEmpty && resp.StatusCode == http.StatusNoContent {
		return nil, c.fail(op, ErrUsed, "")
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		clear(body)
		return nil, c.classify(ctx, op, err)
	}
	return body, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// guard holds every answer to the limits before the API client sees it, which
// itself reads bodies of any length.
type guard struct{ next *http.Transport }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	refuse := func(format string, a ...any) (*http.Response, error) {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: "+format, append([]any{errAnswer}, a...)...)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return refuse("it redirects elsewhere, status %d", resp.StatusCode)
	}
	if resp.ContentLength > maxAnswer {
		return refuse("longer than %d bytes", maxAnswer)
	}
	resp.Body = &limitedBody{resp.Body, maxAnswer}
	return resp, nil
}

type limitedBody struct {
	io.ReadCloser
	left int
}

func (l *limitedBody) Read(p []byte) (int, error) {
	if len(p) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	l.left -= n
	if l.left < 0 {
		return 0, fmt.Errorf("%w: longer than %d bytes", errAnswer, maxAnswer)
	}
	return n, err
}

// decode reads exactly one JSON value. Unknown members are allowed in the
// envelope: each release of Vault and OpenBao adds some.
func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(into); err != nil {
		return errors.New("not the JSON that was expected")
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something after the JSON")
	}
	return nil
}
