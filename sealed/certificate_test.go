package sealed

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"strings"
	"testing"

	"cloister/sealed/signers"

	"golang.org/x/crypto/ssh"
)

// certify makes a user's certificate over the key of s, signed by authority.
func certify(t *testing.T, s, authority ssh.Signer, principals ...string) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{
		Key: s.PublicKey(), CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: principals,
		ValidAfter: uint64(now.Unix() - 60), ValidBefore: uint64(now.Unix() + 60),
	}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return c
}

// certified signs as signers of package client/signing do: with the
// certificate as the key, and RSA as told.
type certified struct {
	ssh.AlgorithmSigner
	certificate *ssh.Certificate
	algorithm   string
}

func (c certified) PublicKey() ssh.PublicKey { return c.certificate }

func (c certified) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return c.SignWithAlgorithm(rand, data, c.algorithm)
}

func TestAJobSignedWithACertificateIsItsKeysAndItsPrincipals(t *testing.T) {
	id, authority := newIdentity(t), newSigner(t)
	list, err := parseSigners("a*,bob cert-authority " + string(ssh.MarshalAuthorizedKey(authority.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	key := newSigner(t).(ssh.AlgorithmSigner)
	s := certified{key, certify(t, key, authority, "alice", "carol"), ssh.KeyAlgoED25519}
	e, err := Parse(sealAs(t, s, signers.Fingerprint(s.certificate), id.Recipient()))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := e.Verify(list, now)
	if err != nil {
		t.Fatal(err)
	}
	if signer.Fingerprint != ssh.FingerprintSHA256(key.PublicKey()) {
		t.Errorf("fingerprint %s: want that of the key, which outlives the certificate", signer.Fingerprint)
	}
	m, _, err := e.Decrypt(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckBinding(m, signer, "alice"); err != nil {
		t.Errorf("alice: %v", err)
	}
	// carol is in the certificate, not in the list; bob the other way round.
	for _, user := range []string{"carol", "bob"} {
		m.User = user
		if err := CheckBinding(m, signer, user); !errors.Is(err, ErrOtherUser) {
			t.Errorf("%s: %v", user, err)
		}
	}
	if _, err := e.Verify(list, now.AddDate(0, 0, 1)); !errors.Is(err, ErrExpiredSigner) {
		t.Errorf("a day later: %v", err)
	}
	if _, err := e.Verify(allow(t, "alice", authority), now); !errors.Is(err, ErrUnknownSigner) {
		t.Errorf("the authority's key registered without cert-authority: %v", err)
	}
	s.certificate = certify(t, key, authority)
	if e, err = Parse(sealAs(t, s, signers.Fingerprint(s.certificate), id.Recipient())); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Verify(list, now); !errors.Is(err, ErrUnknownSigner) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate for nobody: %v", err)
	}
}

func TestARSACertificateSignsWithSHA2Alone(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := signerOf(t, private).(ssh.AlgorithmSigner)
	c := certify(t, key, newSigner(t), "alice")
	for algorithm, good := range map[string]bool{ssh.KeyAlgoRSASHA512: true, ssh.KeyAlgoRSASHA256: true, ssh.KeyAlgoRSA: false} {
		e, err := Parse(sealFor(t, newSigner(t), newIdentity(t).Recipient()))
		if err != nil {
			t.Fatal(err)
		}
		if e.signature, err = signAnew(e, certified{key, c, algorithm}); err != nil {
			t.Fatal(err)
		}
		file, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(file); (err == nil) != good {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}
