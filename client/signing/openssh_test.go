package signing

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/client/advice"
	"cloister/sealed"
	"cloister/tests/softkey"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// tool runs a program of OpenSSH's.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v (this test needs openssh-client)\n%s", name, args, err, out)
	}
}

// verified signs with the configuration and has the stock ssh-keygen verify it
// by the line for the administrator.
func verified(t *testing.T, c *Config) {
	t.Helper()
	s, err := c.Open(neverAsk)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const message = "message\n"
	sig, err := sshsig.Sign(strings.NewReader(message), s.Signer, sshsig.HashSHA512, sealed.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"allowed": []byte(c.Line() + "\n"), "sig": sshsig.Armor(sig)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", filepath.Join(dir, "allowed"), "-I", c.User, "-n", sealed.Namespace, "-s", filepath.Join(dir, "sig"))
	cmd.Stdin = strings.NewReader(message)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen: %v\n%s%s", err, out, c.Line())
	}
}

// socket is a path short enough for one: at most 107 bytes.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestOpenSSHsAgentSignsWithEveryKindOfKeyAndWithCertificates(t *testing.T) {
	sock := socket(t)
	a := exec.Command("ssh-agent", "-D", "-a", sock)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Process.Kill(); a.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ssh-agent made no socket")
		}
	}
	t.Setenv("SSH_AUTH_SOCK", sock)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca)
	for name, args := range map[string][]string{"ed25519": {"-t", "ed25519"}, "ecdsa": {"-t", "ecdsa", "-b", "384"}, "rsa": {"-t", "rsa", "-b", "2048"}} {
		key := filepath.Join(dir, name)
		tool(t, "ssh-keygen", append(args, "-q", "-N", "", "-f", key)...)
		tool(t, "ssh-keygen", "-q", "-s", ca, "-I", name, "-n", "alice", key+".pub")
		tool(t, "ssh-add", "-q", key) // and the certificate beside it
		b, err := os.ReadFile(key + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		k, _, _, _, err := ssh.ParseAuthorizedKey(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, certificate := range []string{"", key + "-cert.pub"} {
			c, err := UseAgent(filepath.Join(t.TempDir(), "home"), "alice", ssh.FingerprintSHA256(k), certificate)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			verified(t, c)
			if c, err = UseFile(filepath.Join(t.TempDir(), "home"), "alice", key, certificate, neverAsk); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			verified(t, c)
		}
	}
}

// oneKey is an agent that holds a single key and cannot be given others.
type oneKey struct {
	agent.Agent
	key *softkey.Key
}

func (a oneKey) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: a.key.PublicKey().Type(), Blob: a.key.PublicKey().Marshal()}}, nil
}

func (a oneKey) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if !bytes.Equal(key.Marshal(), a.key.PublicKey().Marshal()) {
		return nil, errors.New("no such key")
	}
	return a.key.Sign(nil, data)
}

func TestASecurityKeySignsThroughAnAgent(t *testing.T) {
	for _, kind := range []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256} {
		key, err := softkey.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", socket(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_ = agent.ServeAgent(oneKey{agent.NewKeyring(), key}, conn) // ends when the client goes
				}()
			}
		}()
		t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
		c, err := UseAgent(filepath.Join(t.TempDir(), "home"), "alice", "", "")
		if err != nil {
			t.Fatal(err)
		}
		verified(t, c)
	}
	// Its own file has nothing to sign with.
	path := filepath.Join(t.TempDir(), "id_sk")
	if err := errors.Join(os.WriteFile(path, []byte("a handle"), 0o600), os.WriteFile(path+".pub", []byte("sk-ssh-ed25519@openssh.com AAAA"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := UseFile(t.TempDir(), "alice", path, "", neverAsk); err == nil || !strings.Contains(advice.Next(err), "ssh-add") {
		t.Errorf("the file of a security key: %v", err)
	}
}

func TestACertificateIsReadAnewAndMustBeOfTheKeyTheAuthorityAndNow(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"ca", "other-ca", "id", "other"} {
		tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(name))
	}
	certify := func(ca, key, life string) {
		t.Helper()
		tool(t, "ssh-keygen", "-q", "-s", path(ca), "-I", "x", "-n", "alice", "-V", life, path(key+".pub"))
	}
	certify("ca", "other", "-1h:+1h")
	if _, err := UseFile(dir, "alice", path("id"), path("other-cert.pub"), neverAsk); err == nil || !strings.Contains(err.Error(), "of another key") {
		t.Errorf("another key's certificate: %v", err)
	}
	if _, err := UseFile(dir, "alice", path("id"), path("id.pub"), neverAsk); err == nil || !strings.Contains(err.Error(), "no SSH certificate") {
		t.Errorf("no certificate: %v", err)
	}
	certify("ca", "id", "-1h:+1h")
	if _, err := UseFile(dir, "alice", path("id"), path("id-cert.pub"), neverAsk); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	verified(t, c)
	certify("ca", "id", "-2h:+2h")
	verified(t, c)
	for life, ca := range map[string]string{"-2h:-1h": "ca", "+1h:+2h": "ca", "-1h:+1h": "other-ca"} {
		certify(ca, "id", life)
		if _, err := c.Open(neverAsk); err == nil || advice.Next(err) == "" {
			t.Errorf("%s by %s: %v", life, ca, err)
		}
	}
}
