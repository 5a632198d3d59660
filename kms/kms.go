// Package kms is the client of the KMS: it puts a job key behind a single-use
// wrapping token and gets it back, once.
//
// It speaks the response-wrapping part of Vault's HTTP API, so OpenBao,
// HashiCorp Vault and the embedded server (package kms/server) are one code
// path. The transport is the OpenBao API client with everything taken away
// that could surprise: no environment variable, proxy or redirect is honoured,
// nothing is retried, the CA is the one given and no other, and an answer has
// a limit in size and time.
//
// It refuses to talk over anything but HTTPS, to accept a key that was not
// made by sys/wrapping/wrap, and to repeat what a server said in an error: a
// hostile server would only have to echo the token that it was sent.
//
// The wrapping token itself passes through strings of net/http that cannot be
// wiped; it is worthless once redeemed. The job key does not: it is read into
// memory that is wiped.
package kms

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cloister/secret"
)

const (
	// WrapPath is where a wrapping token of ours must have been created, as
	// Vault's lookup reports it.
	WrapPath = "sys/wrapping/wrap"

	// JobKeySize is the length of a job key in bytes: 256 bits.
	JobKeySize = 32

	// DefaultTimeout is how long one operation may take, connection
	// included. A KMS on the LAN answers in milliseconds; a loaded one gets
	// a few seconds.
	DefaultTimeout = 15 * time.Second

	// maxTimeout keeps a configured time-out below the 75 s that Slurm was
	// seen to tolerate in the hand-off.
	maxTimeout = 60 * time.Second

	// maxToken is far above the longest token of OpenBao and Vault (service
	// tokens 26 to 95 bytes, batch tokens a few hundred) and well below
	// net/http's header limit.
	maxToken = 4 << 10
)

// Config says where the KMS is and how to know it.
type Config struct {
	// Address is the base URL: https://host or https://host:port, no path.
	Address string
	// CAPEM holds the CA certificates, in PEM, that the server's
	// certificate must chain to. The system's own CAs never count.
	CAPEM []byte
	// Timeout bounds each operation; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Client talks to one KMS. It holds no secret, may be used from many
// goroutines, and needs no closing.
type Client struct {
	address string
	tls     *tls.Config
	timeout time.Duration
	shared  *http.Transport // for the user's operations; a redemption gets its own
}

// New checks the configuration. It does not connect.
func New(cfg Config) (*Client, error) {
	address, err := checkAddress(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("KMS address: %w", err)
	}
	roots, err := parseCA(cfg.CAPEM)
	if err != nil {
		return nil, fmt.Errorf("KMS CA: %w", err)
	}
	timeout := cfg.Timeout
	switch {
	case timeout == 0:
		timeout = DefaultTimeout
	case timeout < 0 || timeout > maxTimeout:
		return nil, fmt.Errorf("KMS time-out %v is not between 0 and %v", timeout, maxTimeout)
	}
	c := &Client{
		address: address,
		timeout: timeout,
		tls:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	c.shared = c.newTransport()
	return c, nil
}

// Address is the base URL that the client talks to.
func (c *Client) Address() string { return c.address }

// hostName follows RFC 1123, 2.1.
var hostName = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

func checkAddress(s string) (string, error) {
	// 253 is the longest host name (RFC 1035, 2.3.4); the rest is scheme and port.
	if len(s) > 253+len("https://:65535/") {
		return "", errors.New("longer than any host name")
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", errors.New("not a URL")
	}
	switch {
	case u.Scheme != "https":
		return "", fmt.Errorf("%q is not https", s)
	case u.Hostname() == "":
		return "", fmt.Errorf("%q names no host", s)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || (u.Path != "" && u.Path != "/"):
		return "", fmt.Errorf("%q has more than https://host:port", s)
	case !hostName.MatchString(u.Hostname()) && net.ParseIP(u.Hostname()) == nil:
		return "", fmt.Errorf("%q: its host is neither a name nor an IP address", s)
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("%q: its port is not between 1 and 65535", s)
		}
	}
	if again := "https://" + u.Host; s != again && s != again+"/" {
		return "", fmt.Errorf("%q is not written plainly, as %q", s, again)
	}
	return strings.TrimSuffix(s, "/"), nil
}

// parseCA is strict where x509.CertPool is not: it refuses a PEM with anything
// else in it, so that a private key pasted by mistake is noticed.
func parseCA(p []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for rest := p; len(strings.TrimSpace(string(rest))) > 0; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil:
			return nil, errors.New("not PEM")
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("holds a PEM block %.40q, want CERTIFICATE only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d does not parse", n+1)
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return nil, errors.New("no certificate given")
	}
	return pool, nil
}

func checkToken(t secret.Bytes) error {
	b := t.Reveal()
	if len(b) == 0 {
		return errors.New("token is empty")
	}
	if len(b) > maxToken {
		return fmt.Errorf("token is longer than %d bytes", maxToken)
	}
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return errors.New("token has bytes that no token has")
		}
	}
	return nil
}

// ServerTime is the KMS's clock, whole seconds. A node compares its own with
// it, because a moved clock revives an expired job.
func (c *Client) ServerTime(ctx context.Context) (time.Time, error) {
	const op = "asking for the time"
	body, err := c.call(ctx, op, c.shared, request{method: http.MethodGet, path: "sys/health"})
	if err != nil {
		return time.Time{}, err
	}
	var h struct {
		ServerTimeUTC int64 `json:"server_time_utc"`
	}
	if err := decode(body, &h); err != nil || h.ServerTimeUTC <= 0 {
		return time.Time{}, c.fail(op, ErrMalformed, "no server_time_utc in it")
	}
	return time.Unix(h.ServerTimeUTC, 0), nil
}
