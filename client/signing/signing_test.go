package signing

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/client/advice"
	"cloister/sealed"
	"cloister/sealed/signers"
	"cloister/secret"

	"golang.org/x/crypto/ssh"
)

func neverAsk(string) (secret.Bytes, error) {
	return secret.Bytes{}, errors.New("asked for a passphrase")
}

func answer(text string) Asker {
	return func(string) (secret.Bytes, error) { return secret.New([]byte(text)), nil }
}

func TestAKeyThatWasMadeSignsAndIsTheOwnersAlone(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	made, err := Create(home, "alice")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{KeyName, configName} {
		if st, err := os.Stat(filepath.Join(home, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	c, err := Load(home)
	if err != nil || *c != *made {
		t.Fatalf("%+v, %v", c, err)
	}
	s, err := c.Open(neverAsk)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := signers.Parse([]byte(c.Line()))
	if err != nil {
		t.Fatal(err)
	}
	if users, err := list.Find(s.PublicKey(), sealed.Namespace, time.Now()); err != nil || users.String() != "alice" {
		t.Errorf("the line for the administrator names %v, %v", users, err)
	}
	if _, err := Create(home, "alice"); !errors.Is(err, ErrExists) {
		t.Errorf("a second key: %v", err)
	}
}

// writeKey writes a new Ed25519 key, with a passphrase unless it is "".
func writeKey(t *testing.T, path, passphrase string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAKeyFileWithAPassphraseIsOpenedWithIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "id")
	writeKey(t, path, "right")
	if _, err := UseFile(dir, "alice", path, "", answer("wrong")); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong passphrase: %v", err)
	}
	c, err := UseFile(dir, "alice", path, "", answer("right"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(neverAsk); err == nil {
		t.Error("opened without the passphrase")
	}
	if s, err := c.Open(answer("right")); err != nil {
		t.Error(err)
	} else {
		s.Close()
	}
	// Another key in its place does not sign.
	writeKey(t, path, "")
	if _, err := c.Open(neverAsk); advice.Next(err) == "" {
		t.Errorf("another key: %v", err)
	}
}

func TestAConfigurationThatWasNotWrittenHereIsRefused(t *testing.T) {
	home := t.TempDir()
	if _, err := Load(home); advice.Next(err) != "run cloister init" {
		t.Errorf("no configuration: %v", err)
	}
	if _, err := Create(home, "alice"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, configName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	for name, bad := range map[string]string{
		"empty":         "",
		"unknown field": strings.Replace(good, `"format"`, `"more": 1, "format"`, 1),
		"other format":  strings.Replace(good, `"format": 1`, `"format": 2`, 1),
		"other place":   strings.Replace(good, `"file"`, `"cloud"`, 1),
		"user":          strings.Replace(good, `"alice"`, `"alice namespaces"`, 1),
		"two keys":      strings.Replace(good, `"public_key": "`, `"public_key": "cert-authority `, 1),
		"no authority":  strings.Replace(good, `"public_key"`, `"certificate": "x", "public_key"`, 1),
		"no key":        strings.Replace(good, "ssh-ed25519 ", "", 1),
	} {
		if bad == good {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(home); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(home); err == nil || !strings.Contains(advice.Next(err), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
}
