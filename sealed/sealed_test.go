package sealed

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/sealed/signers"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const script = "#!/bin/sh\nexec analyse /data\n"

var sbatchLines = []string{"#SBATCH --secure", "#SBATCH --job-name='survival curve'", "#SBATCH --mem=2G # enough"}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, key)
}

func signerOf(t testing.TB, key any) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newIdentity(t testing.TB) *age.HybridIdentity {
	t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func allow(t testing.TB, user string, s ssh.Signer) *signers.List {
	t.Helper()
	l, err := signers.Parse([]byte(user + ` namespaces="cloister-job" ` + string(ssh.MarshalAuthorizedKey(s.PublicKey()))))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sealFor makes a sealed job of alice's, signed by s.
func sealFor(t testing.TB, s ssh.Signer, to age.Recipient) []byte {
	t.Helper()
	m := testManifest(t)
	m.Signer = ssh.FingerprintSHA256(s.PublicKey())
	payload, err := Payload(m, []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	file, err := Encode(sbatchLines, payload, []age.Recipient{to}, s)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// everySigner has a signer of each key type that allowed_signers serves.
func everySigner(t testing.TB) map[string]ssh.Signer {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]ssh.Signer{"ed25519": newSigner(t), "rsa": signerOf(t, rsaKey)}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = signerOf(t, k)
	}
	m["sk-ed25519"] = newSecurityKey(t)
	return m
}

// securityKey signs as a FIDO token would (PROTOCOL.u2f): over the hash of the
// application, flags, counter and the hash of the message.
type securityKey struct {
	public  ssh.PublicKey
	private ed25519.PrivateKey
}

func newSecurityKey(t testing.TB) *securityKey {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	blob := ssh.Marshal(struct {
		Kind        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, pub, "ssh:"})
	public, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return &securityKey{public, private}
}

// roundTrip opens a sealed job as a node would and returns what it is asked.
func roundTrip(file []byte, list *signers.List, ids ...age.Identity) (*Manifest, []byte, error) {
	e, err := Parse(file)
	if err != nil {
		return nil, nil, err
	}
	signer, err := e.Verify(list, now)
	if err != nil {
		return nil, nil, err
	}
	m, s, err := e.Decrypt(ids...)
	if err != nil {
		return nil, nil, err
	}
	if err := CheckBinding(m, signer, "alice"); err != nil {
		return nil, nil, err
	}
	return m, s, nil
}

func (k *securityKey) PublicKey() ssh.PublicKey { return k.public }

func (k *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	trailer := []byte{1, 0, 0, 0, 7} // user present, seventh signature
	app, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	signed := slices.Concat(app[:], trailer, message[:])
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.private, signed), Rest: trailer}, nil
}

func replaceOnce(t testing.TB, s, old, with string) string {
	t.Helper()
	if strings.Count(s, old) != 1 {
		t.Fatalf("%q occurs %d times", old, strings.Count(s, old))
	}
	return strings.Replace(s, old, with, 1)
}

// signAnew signs what the envelope holds with another key.
func signAnew(e *Envelope, s ssh.Signer) (*sshsig.Signature, error) {
	return sshsig.Sign(bytes.NewReader(e.signed), s, sshsig.HashSHA512, Namespace)
}
