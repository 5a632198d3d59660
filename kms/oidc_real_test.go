package kms_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"cloister/kms"
)

// provider is an OpenID provider that lets everybody in as alice. It checks
// the PKCE verifier, as a real one does.
type provider struct {
	*httptest.Server
	key       *ecdsa.PrivateKey
	challenge string
	nonce     string
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	b64 := base64.RawURLEncoding.EncodeToString
	m := http.NewServeMux()
	m.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}})
	})
	m.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		pub, err := key.PublicKey.Bytes() // 4, X, Y
		if err != nil {
			t.Error(err)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "alg": "ES256", "x": b64(pub[1:33]), "y": b64(pub[33:])}}})
	})
	m.HandleFunc("/auth", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		p.challenge, p.nonce = q.Get("code_challenge"), q.Get("nonce")
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"state": {q.Get("state")}, "code": {"the-code"}}.Encode(), http.StatusFound)
	})
	m.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if r.FormValue("code") != "the-code" || b64(sum[:]) != p.challenge {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":"invalid_grant"}`)
			return
		}
		claims, _ := json.Marshal(map[string]any{"iss": p.URL, "aud": "cloister", "sub": "alice", "nonce": p.nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()})
		signed := b64([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + b64(claims)
		digest := sha256.Sum256([]byte(signed))
		x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Error(err)
			return
		}
		sig := append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": signed + "." + b64(sig)})
	})
	p.Server = httptest.NewServer(m)
	t.Cleanup(p.Close)
	return p
}

// TestARealServerLogsInByOIDC needs a KMS_TOKEN that may enable auth methods,
// which KMS_ADMIN=1 says. The embedded server has no OIDC.
func TestARealServerLogsInByOIDC(t *testing.T) {
	if os.Getenv("KMS_ADMIN") != "1" {
		t.Skip("needs a real server whose auth methods it may change: make conformance builds one and runs this; or set KMS_ADDR, KMS_TOKEN, KMS_CACERT and KMS_ADMIN=1")
	}
	k := targets(t)["real"]
	p := newProvider(t)
	root := k.stock(t, string(k.user.Reveal())).Logical()
	mount := fmt.Sprintf("oidc-%d", time.Now().UnixNano())
	for _, w := range []struct {
		path string
		data map[string]any
	}{
		{"sys/auth/" + mount, map[string]any{"type": "oidc"}},
		{"auth/" + mount + "/config", map[string]any{"oidc_discovery_url": p.URL, "oidc_client_id": "cloister", "oidc_client_secret": "x", "default_role": "researcher", "jwt_supported_algs": []string{"ES256"}}},
		{"auth/" + mount + "/role/researcher", map[string]any{"role_type": "oidc", "user_claim": "sub", "allowed_redirect_uris": []string{here}, "token_ttl": "1h", "token_policies": []string{"researcher"}}},
	} {
		if _, err := root.Write(w.path, w.data); err != nil {
			t.Fatal(err)
		}
	}
	defer root.Delete("sys/auth/" + mount)
	c := k.client(t)
	browse := func(page string) url.Values {
		t.Helper()
		hc := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := hc.Get(page)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		back, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		return back.Query()
	}
	// The port that the browser comes back to is free (RFC 8252, 7.3).
	f, err := c.StartOIDC(t.Context(), mount, "", "http://localhost:9999/oidc/callback")
	if err != nil {
		t.Fatal(err)
	}
	q := browse(f.URL)
	l, err := f.Finish(t.Context(), q.Get("state"), q.Get("code"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Life < time.Minute {
		t.Errorf("it lasts %v", l.Life)
	}
	if h, err := c.WhoHolds(t.Context(), l.Token); err != nil || h.Name != mount+"-alice" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := f.Finish(t.Context(), q.Get("state"), q.Get("code")); !errors.Is(err, kms.ErrLogin) {
		t.Errorf("twice: %v", err)
	}
	if f, err = c.StartOIDC(t.Context(), mount, "researcher", here); err != nil {
		t.Fatal(err)
	}
	if q = browse(f.URL); q.Get("code") == "" {
		t.Error("no code")
	}
	if _, err := f.Finish(t.Context(), q.Get("state"), "another"); !errors.Is(err, kms.ErrLogin) {
		t.Errorf("a code that the provider does not know: %v", err)
	}
	for _, bad := range [][2]string{{"nobody", here}, {"researcher", "http://localhost:8250/elsewhere"}, {"researcher", "https://elsewhere.example.org/oidc/callback"}} {
		if _, err := c.StartOIDC(t.Context(), mount, bad[0], bad[1]); !errors.Is(err, kms.ErrLogin) {
			t.Errorf("role %s back to %s: %v", bad[0], bad[1], err)
		}
	}
}
