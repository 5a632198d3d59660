package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

func armored(t *testing.T, kind string, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	w.Close()
	return b.Bytes()
}

func TestAKeyringMayHoldSeveralKeysInOneBlockOrInSeveral(t *testing.T) {
	a, b, c := newKey(t, 0), newKey(t, 0), newKey(t, 0)
	k, err := ParseKeys(append(append(public(t, a, b), "\n\n"...), public(t, c)...))
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Fingerprints(); len(got) != 3 || !k.Allows(fingerprint(c)) || k.Allows(fingerprint(newKey(t, 0))) {
		t.Errorf("keys %v", got)
	}
}

func TestAKeyringWithAnythingButSoundPublicKeysIsRefused(t *testing.T) {
	a, b := newKey(t, 0), newKey(t, 0)
	var private, weak, raw bytes.Buffer
	if err := a.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	short, err := openpgp.NewEntity("Short", "", "", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 1024})
	if err != nil {
		t.Fatal(err)
	}
	if err := short.Serialize(&weak); err != nil {
		t.Fatal(err)
	}
	if err := b.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	unknown := bytes.Clone(raw.Bytes())
	unknown[2+5] = 99 // the algorithm: after the packet's two-byte header, the version and the time
	corpus, err := os.ReadFile(filepath.Join(corpusDir(t), "keys", "private.asc"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(public(t, a))
	for what, c := range map[string]struct{ in, says string }{
		"nothing":                       {"", "empty"},
		"white space":                   {" \n\t", "empty"},
		"junk":                          {"hello", "not an armored PGP public key block"},
		"junk before":                   {"hello\n" + good, "not an armored PGP public key block"},
		"junk after":                    {good + "\nhello", "not an armored PGP public key block"},
		"cut":                           {good[:len(good)-20], "not an armored PGP public key block"},
		"binary":                        {raw.String(), "not an armored PGP public key block"},
		"no key in the block":           {string(armored(t, openpgp.PublicKeyType, nil)), "after 0 keys"},
		"a private key":                 {string(corpus), "private key"},
		"a private key in disguise":     {string(armored(t, openpgp.PublicKeyType, private.Bytes())), "private"},
		"a key that is not understood":  {string(armored(t, openpgp.PublicKeyType, append(unknown, raw.Bytes()...))), "could not be used"},
		"short RSA":                     {string(armored(t, openpgp.PublicKeyType, weak.Bytes())), "1024 bits"},
		"the same key twice":            {good + good, "given twice"},
		"more bytes than are sensible":  {good + strings.Repeat("\n", MaxKeyring), "limit"},
		"a second block with a private": {good + string(corpus), "private key"},
	} {
		k, err := ParseKeys([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.says) || k != nil {
			t.Errorf("%s: got %v, want one that says %q", what, err, c.says)
		}
	}
}

func TestAKeyringOfTooManyKeysIsRefused(t *testing.T) {
	var all []*openpgp.Entity
	for range MaxKeys + 1 {
		all = append(all, newKey(t, 0))
	}
	if _, err := ParseKeys(public(t, all...)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
	if _, err := ParseKeys(public(t, all[:MaxKeys]...)); err != nil {
		t.Error(err)
	}
}
