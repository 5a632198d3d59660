package image

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// pemSigner makes a key of that kind, and its public half as openssl writes it.
func pemSigner(t testing.TB, kind string) (signature.Signer, string) {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p224":
		key, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, MinRSA)
	case "rsa1024":
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil && kind != "p224" {
		t.Fatal(err)
	}
	return s, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func pemKeys(t testing.TB, text ...string) *Keys {
	t.Helper()
	k, err := ParseKeys([]byte(strings.Join(text, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signDSSE(t testing.TB, b *sif.Buffer, signers ...signature.Signer) []byte {
	t.Helper()
	return edit(t, b, func(img *sif.FileImage) error {
		s, err := integrity.NewSigner(img, integrity.OptSignWithSigner(signers...))
		if err != nil {
			return err
		}
		return s.Sign()
	})
}

func TestDSSESignaturesCountIfEachOfThemIsByAnAllowedKey(t *testing.T) {
	root := func() *sif.Buffer {
		return build(t, input(t, sif.DataLabels, []byte("{}")), primary(t, sif.FsSquash, squashfs(4096), "amd64"))
	}
	one, onePEM := pemSigner(t, "ed25519")
	two, twoPEM := pemSigner(t, "ecdsa")
	three, threePEM := pemSigner(t, "rsa")
	_, otherPEM := pemSigner(t, "ed25519")
	e := newKey(t, 0)
	both := root()
	signDSSE(t, both, one)
	add := func(b []byte) []byte {
		return edit(t, sif.NewBuffer(bytes.Clone(b)), func(img *sif.FileImage) error { return img.AddObject(input(t, sif.DataLabels, []byte("{}"))) })
	}
	change := func(b []byte, old, with string) []byte { return bytes.Replace(b, []byte(old), []byte(with), 1) }
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[bytes.Index(b, []byte("hsqs"))+2000] ^= 1
		return b
	}
	otherSig := func(b []byte) []byte {
		b = bytes.Clone(b)
		at := bytes.Index(b, []byte(`"sig":"`)) + len(`"sig":"`) + 8
		b[at] = map[bool]byte{true: 'B', false: 'A'}[b[at] == 'A']
		return b
	}
	all := pemKeys(t, onePEM, twoPEM, threePEM)
	signed := signDSSE(t, root(), one)
	for what, c := range map[string]struct {
		raw    []byte
		keys   *Keys
		reason error
	}{
		"by Ed25519":                  {signed, all, nil},
		"by ECDSA":                    {signDSSE(t, root(), two), all, nil},
		"by RSA":                      {signDSSE(t, root(), three), all, nil},
		"by all":                      {signDSSE(t, root(), one, two, three), all, nil},
		"by a PEM and an OpenPGP key": {sign(t, both, e), pemKeys(t, onePEM, string(public(t, e))), nil},
		"by one that is not allowed":  {signed, pemKeys(t, otherPEM, twoPEM), ErrUnknownKey},
		"no PEM key is allowed":       {signed, keysOf(t, e), ErrUnknownKey},
		"by two, one is not allowed":  {signDSSE(t, root(), one, two), pemKeys(t, onePEM), ErrUnknownKey},
		"by two, the other is not":    {signDSSE(t, root(), two, one), pemKeys(t, onePEM), ErrUnknownKey},
		"by one twice":                {signDSSE(t, root(), one, one), all, ErrUnknownKey},
		"altered":                     {flip(signed), all, ErrAltered},
		"object added":                {add(signed), all, ErrExtraObject},
		"signature altered":           {otherSig(signed), all, ErrUnknownKey},
		"payload altered":             {change(signed, `"payload":"ey`, `"payload":"ew`), all, ErrUnknownKey},
		"another payload type":        {change(signed, "sif-metadata+json", "sif-metadate+json"), all, ErrAltered},
	} {
		v, err := check(c.raw, c.keys)
		want(t, what, err, c.reason)
		if err == nil && (len(v.Fingerprints) == 0 || !slices.IsSorted(v.Fingerprints) || slices.ContainsFunc(v.Fingerprints, func(fp string) bool { return !c.keys.Allows(fp) })) {
			t.Errorf("%s: signed by %v", what, v.Fingerprints)
		}
		skimmed := Skim(bytes.NewReader(c.raw), int64(len(c.raw)), c.keys)
		if skimmed != nil || c.reason != ErrAltered && c.reason != ErrExtraObject {
			want(t, what+", skimmed", skimmed, c.reason)
		}
	}
	if claimed, err := Inspect(bytes.NewReader(signed), int64(len(signed))); err != nil || !slices.Equal(claimed, []string{"a PEM key"}) {
		t.Errorf("claimed %v, %v", claimed, err)
	}
}

func TestPEMKeysAreReadStrictly(t *testing.T) {
	_, good := pemSigner(t, "ed25519")
	_, weak := pemSigner(t, "p224")
	_, short := pemSigner(t, "rsa1024")
	if k := pemKeys(t, good); len(k.Fingerprints()) != 1 || !strings.HasPrefix(k.Fingerprints()[0], "SHA256:") {
		t.Errorf("%v", k.Fingerprints())
	}
	for what, text := range map[string]string{
		"weak curve":   weak,
		"short RSA":    short,
		"twice":        good + good,
		"CRLF":         strings.ReplaceAll(good, "\n", "\r\n"),
		"headers":      strings.Replace(good, "\n", "\nA: b\n\n", 1),
		"junk before":  "x\n" + good,
		"junk after":   good + "x",
		"cut":          good[:len(good)-10],
		"changed tail": strings.Replace(good, "=\n", "1\n", 1),
		"private":      strings.ReplaceAll(good, "PUBLIC", "PRIVATE"),
		"certificate":  strings.ReplaceAll(good, "PUBLIC KEY", "CERTIFICATE"),
		"too many":     strings.Repeat(good, MaxKeys+1),
	} {
		if k, err := ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s: accepted: %v", what, k.Fingerprints())
		}
	}
}
