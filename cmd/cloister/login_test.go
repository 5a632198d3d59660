package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"filippo.io/age"
)

func TestABrowserLogsInThroughThePortOfThisMachine(t *testing.T) {
	b := startBrowserLogin(t, http.MethodGet)
	if code := b.send("state=st_1&code=good"); code != 200 {
		t.Errorf("the login: %d", code)
	}
	b.wantLogin()
}

// A provider answers so when the KMS asks it to, by response_mode=form_post.
func TestABrowserLogsInByAFormThatItPosts(t *testing.T) {
	b := startBrowserLogin(t, http.MethodPost)
	if code := b.send("code=good&state=st_1&pad=" + strings.Repeat("x", maxForm)); code != 400 || b.asked.Load() != 0 {
		t.Errorf("a form that is too large: %d", code)
	}
	if code := b.send("state=st_1&code=good"); code != 200 {
		t.Errorf("the login: %d", code)
	}
	b.wantLogin()
}

func TestAProviderThatSendsNoCodeEndsTheLoginWithAReason(t *testing.T) {
	for form, words := range map[string]string{
		"state=st_1&id_token=e30.e30.e30": "an ID token instead of a code",
		"state=st_1&error=access_denied":  "the provider did not let you in",
	} {
		b := startBrowserLogin(t, http.MethodPost)
		b.send(form)
		if code := <-b.done; code == 0 || b.asked.Load() != 0 {
			t.Errorf("%s: exit status %d, and the KMS was asked %d times", form, code, b.asked.Load())
		}
		if said := <-b.said; !strings.Contains(said, words) {
			t.Errorf("%s: cloister says %q", form, said)
		}
	}
}

// A browserLogin is a cloister login that waits for a browser. The KMS behind
// it answers as Vault's jwt method does, and counts what reaches it.
type browserLogin struct {
	t            *testing.T
	method, port string
	home         string
	asked        atomic.Int32
	out          bytes.Buffer
	done         chan int
	said         chan string // on standard error after the page
}

// send plays the browser.
func (b *browserLogin) send(query string) int {
	b.t.Helper()
	to := "http://127.0.0.1:" + b.port + callbackPath
	var resp *http.Response
	var err error
	if b.method == http.MethodPost {
		resp, err = http.Post(to, "application/x-www-form-urlencoded", strings.NewReader(query))
	} else {
		resp, err = http.Get(to + "?" + query)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (b *browserLogin) wantLogin() {
	b.t.Helper()
	if code := <-b.done; code != 0 || !strings.Contains(b.out.String(), "lab: logged in as oidc-alice until") {
		b.t.Errorf("exit status %d, %s", code, b.out.String())
	}
	if token, err := os.ReadFile(filepath.Join(b.home, "kms-tokens", "lab")); err != nil || string(token) != "hvs.oidc" {
		b.t.Errorf("token kept: %v", err)
	}
}

func startBrowserLogin(t *testing.T, method string) *browserLogin {
	t.Helper()
	b := &browserLogin{t: t, method: method, port: freePort(t), home: t.TempDir(), done: make(chan int, 1), said: make(chan string, 1)}
	var nonce string
	kms := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/auth/sso/oidc/auth_url":
			var in map[string]string
			json.NewDecoder(r.Body).Decode(&in)
			nonce = in["client_nonce"]
			page := "https://idp.example.org/auth?" + url.Values{"state": {"st_1"}, "redirect_uri": {in["redirect_uri"]}}.Encode()
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"auth_url": page}})
		case "/v1/auth/sso/oidc/callback":
			b.asked.Add(1)
			q := r.URL.Query()
			if q.Get("state") != "st_1" || q.Get("client_nonce") != nonce || q.Get("code") != "good" {
				w.WriteHeader(400)
				fmt.Fprint(w, `{"errors":["Vault login failed."]}`)
				return
			}
			fmt.Fprint(w, `{"auth":{"client_token":"hvs.oidc","lease_duration":3600}}`)
		case "/v1/auth/token/lookup-self":
			fmt.Fprint(w, `{"data":{"display_name":"oidc-alice","ttl":3600}}`)
		default:
			w.WriteHeader(404)
		}
	}))
	t.Cleanup(kms.Close)
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CLOISTER_HOME", b.home)
	file := filepath.Join(b.home, "site.toml")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kms.Certificate().Raw})
	text := fmt.Sprintf("format = 1\ncluster = \"lab\"\n[kms]\naddress = %q\nca = \"\"\"\n%s\"\"\"\n[class.dedicated]\nrecipients = [%q]\n", kms.URL, ca, id.Recipient())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"site", "add", file}, nil, io.Discard, io.Discard); code != 0 {
		t.Fatalf("site add: %d", code)
	}
	in, said := io.Pipe()
	go func() {
		b.done <- run([]string{"login", "--method", "oidc", "--path", "sso", "--port", b.port}, strings.NewReader(""), &b.out, said)
		said.Close()
	}()
	lines := bufio.NewScanner(in)
	for lines.Scan() && !strings.Contains(lines.Text(), "ssh -L") {
		if page, ok := strings.CutPrefix(lines.Text(), "  https://"); ok && !strings.Contains(page, url.QueryEscape("http://localhost:"+b.port+"/oidc/callback")) {
			t.Errorf("page %s", page)
		}
	}
	go func() {
		var rest strings.Builder
		for lines.Scan() {
			rest.WriteString(lines.Text() + "\n")
		}
		b.said <- rest.String()
	}()
	// What any page in the browser can send.
	for _, q := range []string{"", "state=&code=good", "state=st_2&code=good"} {
		if code := b.send(q); code != 400 || b.asked.Load() != 0 {
			t.Errorf("%s: %d, and the KMS was asked %d times", q, code, b.asked.Load())
		}
	}
	return b
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
