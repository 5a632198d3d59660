package sealed

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
	"time"

	"cloister/sealed/signers"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

func parseSigners(s string) (*signers.List, error) { return signers.Parse([]byte(s)) }

func TestAKeyThatIsNotRegisteredIsRefused(t *testing.T) {
	id, s := newIdentity(t), newSigner(t)
	e, err := Parse(sealFor(t, s, id.Recipient()))
	if err != nil {
		t.Fatal(err)
	}
	key := string(ssh.MarshalAuthorizedKey(s.PublicKey()))
	for _, c := range []struct {
		name, file string
		want       error
	}{
		{"unknown", "alice " + string(ssh.MarshalAuthorizedKey(newSigner(t).PublicKey())), ErrUnknownSigner},
		{"for git only", `alice namespaces="git" ` + key, ErrUnknownSigner},
		{"expired", `alice valid-before="20260101" ` + key, ErrExpiredSigner},
		{"not yet valid", `alice valid-after="20270101" ` + key, ErrExpiredSigner},
		{"registered", "alice " + key, nil},
	} {
		list, err := parseSigners(c.file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Verify(list, now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAWeakKeyIsRefusedHoweverItSigns(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := signerOf(t, k)
	if _, err := parseSigners("alice " + string(ssh.MarshalAuthorizedKey(weak.PublicKey()))); err == nil {
		t.Error("allowed_signers takes an RSA key of 1024 bits")
	}
	e, err := Parse(sealFor(t, weak, newIdentity(t).Recipient()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Verify(allow(t, "alice", newSigner(t)), now); !errors.Is(err, ErrUnknownSigner) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherRegisteredUserCannotSignAStolenCiphertext(t *testing.T) {
	id, alice, mallory := newIdentity(t), newSigner(t), newSigner(t)
	stolen, err := Parse(sealFor(t, alice, id.Recipient()))
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseSigners("alice " + string(ssh.MarshalAuthorizedKey(alice.PublicKey())) +
		"mallory " + string(ssh.MarshalAuthorizedKey(mallory.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	e := *stolen
	if e.signature, err = signAnew(&e, mallory); err != nil {
		t.Fatal(err)
	}
	signer, err := e.Verify(list, now)
	if err != nil {
		t.Fatalf("the signature itself is good: %v", err)
	}
	m, _, err := e.Decrypt(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"mallory", "alice"} {
		if err := CheckBinding(m, signer, user); !errors.Is(err, ErrOtherUser) {
			t.Errorf("submitted by %s: %v", user, err)
		}
	}
	signer, err = stolen.Verify(list, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckBinding(m, signer, "mallory"); !errors.Is(err, ErrOtherUser) {
		t.Errorf("alice's job submitted by mallory: %v", err)
	}
	if err := CheckBinding(m, signer, "alice"); err != nil {
		t.Errorf("alice's own job: %v", err)
	}
	signer.Users = principals(t, "carol", signer.Key)
	if err := CheckBinding(m, signer, "alice"); !errors.Is(err, ErrOtherUser) {
		t.Errorf("a key of carol's: %v", err)
	}
}

func principals(t *testing.T, patterns string, key ssh.PublicKey) signers.Principals {
	t.Helper()
	l, err := parseSigners(patterns + " " + string(ssh.MarshalAuthorizedKey(key)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Find(key, Namespace, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAJobIsOnlyForItsTimeAndPlace(t *testing.T) {
	m := testManifest(t)
	for _, c := range []struct {
		at   time.Time
		want error
	}{
		{m.Created, nil},
		{m.Created.Add(-59 * time.Minute), nil},
		{m.Created.Add(-61 * time.Minute), ErrClock},
		{m.Expires.Add(-time.Second), nil},
		{m.Expires, ErrExpired},
		{m.Expires.AddDate(1, 0, 0), ErrExpired},
	} {
		if err := m.CheckTime(c.at); !errors.Is(err, c.want) {
			t.Errorf("at %s: %v", c.at, err)
		}
	}
	for _, c := range []struct {
		cluster, class string
		want           error
	}{
		{m.Cluster, m.Class, nil},
		{"elsewhere", m.Class, ErrOtherCluster},
		{m.Cluster, ClassOnDemand, ErrOtherClass},
	} {
		if err := m.CheckPlace(c.cluster, c.class); !errors.Is(err, c.want) {
			t.Errorf("%s, %s: %v", c.cluster, c.class, err)
		}
	}
}

func TestAJobOpensOnNoOtherNode(t *testing.T) {
	s := newSigner(t)
	e, err := Parse(sealFor(t, s, newIdentity(t).Recipient()))
	if err != nil {
		t.Fatal(err)
	}
	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []age.Identity{newIdentity(t), classic} {
		if _, _, err := e.Decrypt(id); !errors.Is(err, ErrOtherNode) {
			t.Errorf("%T: %v", id, err)
		}
	}
}

func TestAPayloadThatIsNoJobIsRefused(t *testing.T) {
	s, id := newSigner(t), newIdentity(t)
	m, err := testManifest(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string]string{
		"empty":              "",
		"no line end":        string(m),
		"no script":          string(m) + "\n",
		"script without #!":  string(m) + "\necho hello\n",
		"NUL in the script":  string(m) + "\n#!/bin/sh\n\x00",
		"blank after":        string(m) + " \n" + script,
		"carriage return":    string(m) + "\r\n" + script,
		"not a manifest":     "{}\n" + script,
		"a list of manifest": "[" + string(m) + "]\n" + script,
	} {
		file, err := Encode(nil, testManifest(t).Notice(), []byte(payload), []age.Recipient{id.Recipient()}, s)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Parse(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.Decrypt(id); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARefusalIsOneLineThatATerminalCanShow(t *testing.T) {
	m := testManifest(t)
	m.User = "alice\x1b[2J\n" + strings.Repeat("x", 1000)
	err := CheckBinding(m, Signer{Fingerprint: m.Signer, Users: principals(t, "alice", newSigner(t).PublicKey())}, "alice")
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatal(err)
	}
	if strings.ContainsAny(r.Cause+r.Next, "\x1b\n") || len(r.Cause) > 600 {
		t.Errorf("%q", r.Cause)
	}
}
