package kms_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister/kms"
	"cloister/kms/server"
	"cloister/secret"
)

func TestNothingInTheEnvironmentChangesWhomTheClientTalksTo(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, prefix := range []string{"BAO_", "VAULT_"} {
		for k, v := range map[string]string{
			"ADDR": other.URL, "AGENT_ADDR": other.URL, "PROXY_ADDR": other.URL, "HTTP_PROXY": other.URL, "SKIP_VERIFY": "true", "TOKEN": "s.elsewhere",
			"NAMESPACE": "evil", "WRAP_TTL": "7s", "MAX_RETRIES": "9", "CACERT": "/nonexistent", "TLS_SERVER_NAME": "evil", "SRV_LOOKUP": "true",
			"CLIENT_TIMEOUT": "1ns", "RATE_LIMIT": "0:0",
		} {
			t.Setenv(prefix+k, v)
		}
	}
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(k, other.URL)
	}
	t.Setenv("SSL_CERT_FILE", "/nonexistent")
	k := embedded(t)
	c := k.client(t)
	key := newKey(t)
	tok, err := c.Wrap(t.Context(), k.user, key, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(tok.Expires); d < 50*time.Minute {
		t.Errorf("token lives %v: the environment's TTL was used", d)
	}
	if got, err := c.Redeem(t.Context(), tok.Token); err != nil || !got.Equal(key) {
		t.Fatal(err)
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
	// The environment must not be able to turn verification off, either.
	stranger, err := kms.New(kms.Config{Address: k.address, CAPEM: newAuthority(t).pem})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.ServerTime(t.Context()); !errors.Is(err, kms.ErrTLS) {
		t.Errorf("with another CA: %v, want ErrTLS", err)
	}
}

func TestAKMSThatIsNotThereIsUnreachableAndCostsNoToken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ca := newAuthority(t).pem
	for _, address := range []string{"https://" + addr, "https://kms.invalid:8200"} {
		c, err := kms.New(kms.Config{Address: address, CAPEM: ca, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Redeem(t.Context(), canaryToken())
		if !errors.Is(err, kms.ErrUnreachable) || kms.MaybeSpent(err) {
			t.Errorf("%s: %v, want ErrUnreachable", address, err)
		}
		checkNoSecret(t, err)
	}
}

func TestAConfigurationThatCouldTalkToAnybodyElseIsRefused(t *testing.T) {
	ca := newAuthority(t).pem
	for name, cfg := range map[string]kms.Config{
		"no address":     {CAPEM: ca},
		"http":           {Address: "http://head:8200", CAPEM: ca},
		"unix":           {Address: "unix:///run/x", CAPEM: ca},
		"no scheme":      {Address: "head:8200", CAPEM: ca},
		"user":           {Address: "https://a:b@head", CAPEM: ca},
		"query":          {Address: "https://head?x=1", CAPEM: ca},
		"fragment":       {Address: "https://head#x", CAPEM: ca},
		"path":           {Address: "https://head/vault", CAPEM: ca},
		"escaped host":   {Address: "https://he%61d", CAPEM: ca},
		"space in host":  {Address: "https://he ad", CAPEM: ca},
		"port too high":  {Address: "https://head:65536", CAPEM: ca},
		"long":           {Address: "https://" + strings.Repeat("a.", 200), CAPEM: ca},
		"no CA":          {Address: "https://head"},
		"CA not PEM":     {Address: "https://head", CAPEM: []byte("x")},
		"key in CA":      {Address: "https://head", CAPEM: []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")},
		"bad CA":         {Address: "https://head", CAPEM: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
		"negative wait":  {Address: "https://head", CAPEM: ca, Timeout: -1},
		"far too a wait": {Address: "https://head", CAPEM: ca, Timeout: time.Hour},
	} {
		if _, err := kms.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, good := range []string{"https://head", "https://head:8200", "https://head:8200/", "https://10.0.0.1:1", "https://[fd00::1]:8200", "https://kms.lab.example.org"} {
		if _, err := kms.New(kms.Config{Address: good, CAPEM: ca}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestWrapRefusesWhatIsNotAJobKeyOrALife(t *testing.T) {
	k := embedded(t)
	c := k.client(t)
	if _, err := c.Wrap(t.Context(), k.user, secret.New(make([]byte, 31)), time.Hour); err == nil {
		t.Error("wrapped 31 bytes")
	}
	for _, ttl := range []time.Duration{0, -time.Second, time.Millisecond, time.Second + 1, kms.MaxTTL + time.Second} {
		if _, err := c.Wrap(t.Context(), k.user, newKey(t), ttl); err == nil {
			t.Errorf("wrapped for %v", ttl)
		}
	}
	if _, err := c.Wrap(t.Context(), secret.Bytes{}, newKey(t), time.Hour); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("without a token: %v", err)
	}
}

func TestAUserWithTooManyUnusedTokensIsToldSo(t *testing.T) {
	k := embedded(t, func(c *server.Config) { c.MaxTokens = 1 })
	mustWrap(t, k, newKey(t), time.Hour)
	_, err := k.client(t).Wrap(t.Context(), k.user, newKey(t), time.Hour)
	if !errors.Is(err, kms.ErrLimit) || kms.Hint(err) == "" {
		t.Errorf("%v, want ErrLimit", err)
	}
}

func TestATokenThatTheEmbeddedServerKnowsToBeExpiredIsNotAnIncident(t *testing.T) {
	k := embedded(t)
	tok := mustWrap(t, k, newKey(t), time.Second)
	time.Sleep(2 * time.Second)
	if _, err := k.client(t).Redeem(t.Context(), tok.Token); !errors.Is(err, kms.ErrExpired) || errors.Is(err, kms.ErrUsed) {
		t.Errorf("%v, want ErrExpired", err)
	}
}
