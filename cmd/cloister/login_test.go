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

// TestABrowserLogsInThroughThePortOfThisMachine plays the browser; the KMS
// behind it answers as Vault's jwt method does, and counts what reaches it.
func TestABrowserLogsInThroughThePortOfThisMachine(t *testing.T) {
	var nonce string
	var asked atomic.Int32
	kms := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/auth/sso/oidc/auth_url":
			var in map[string]string
			json.NewDecoder(r.Body).Decode(&in)
			nonce = in["client_nonce"]
			page := "https://idp.example.org/auth?" + url.Values{"state": {"st_1"}, "redirect_uri": {in["redirect_uri"]}}.Encode()
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"auth_url": page}})
		case "/v1/auth/sso/oidc/callback":
			asked.Add(1)
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
	defer kms.Close()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	t.Setenv("CLOISTER_HOME", home)
	file := filepath.Join(home, "site.toml")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kms.Certificate().Raw})
	text := fmt.Sprintf("format = 1\ncluster = \"lab\"\n[kms]\naddress = %q\nca = \"\"\"\n%s\"\"\"\n[class.dedicated]\nrecipients = [%q]\n", kms.URL, ca, id.Recipient())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"site", "add", file}, nil, io.Discard, io.Discard); code != 0 {
		t.Fatalf("site add: %d", code)
	}
	port := freePort(t)
	in, said := io.Pipe()
	var out bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run([]string{"login", "--method", "oidc", "--path", "sso", "--port", port}, strings.NewReader(""), &out, said)
		said.Close()
	}()
	lines := bufio.NewScanner(in)
	for lines.Scan() && !strings.Contains(lines.Text(), "ssh -L") {
		if page, ok := strings.CutPrefix(lines.Text(), "  https://"); ok && !strings.Contains(page, url.QueryEscape("http://localhost:"+port+"/oidc/callback")) {
			t.Errorf("page %s", page)
		}
	}
	go io.Copy(io.Discard, in)
	get := func(query string) int {
		resp, err := http.Get("http://127.0.0.1:" + port + "/oidc/callback?" + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	// What any page in the browser can send.
	for _, q := range []string{"", "state=&code=good", "state=st_2&code=good"} {
		if code := get(q); code != 400 || asked.Load() != 0 {
			t.Errorf("%s: %d, and the KMS was asked %d times", q, code, asked.Load())
		}
	}
	if code := get("state=st_1&code=good"); code != 200 {
		t.Errorf("the login: %d", code)
	}
	if code := <-done; code != 0 || !strings.Contains(out.String(), "lab: logged in as oidc-alice until") {
		t.Errorf("exit status %d, %s", code, out.String())
	}
	if b, err := os.ReadFile(filepath.Join(home, "kms-tokens", "lab")); err != nil || string(b) != "hvs.oidc" {
		t.Errorf("token kept: %v", err)
	}
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
