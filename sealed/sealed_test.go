package sealed

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"cloister/sealed/signers"
	"cloister/tests/softkey"

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
	return sealAs(t, s, ssh.FingerprintSHA256(s.PublicKey()), to)
}

// sealAs says in the manifest that another key signs it.
func sealAs(t testing.TB, s ssh.Signer, fingerprint string, to age.Recipient) []byte {
	t.Helper()
	m := testManifest(t)
	m.Signer = fingerprint
	payload, err := Payload(m, []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	file, err := Encode(sbatchLines, m.Notice(), payload, []age.Recipient{to}, s)
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
	for name, kind := range map[string]string{"sk-ed25519": ssh.KeyAlgoSKED25519, "sk-ecdsa": ssh.KeyAlgoSKECDSA256} {
		k, err := softkey.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = k
	}
	return m
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
