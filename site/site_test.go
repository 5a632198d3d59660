package site

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"cloister/span"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

func newCA(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newRecipient(t testing.TB) (*age.HybridIdentity, string) {
	t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id, id.Recipient().String()
}

func valid(t testing.TB) *File {
	t.Helper()
	_, r1 := newRecipient(t)
	_, r2 := newRecipient(t)
	_, r3 := newRecipient(t)
	fortnight := span.Duration(14 * 24 * time.Hour)
	return &File{
		Format: 1, Cluster: "lab", KMS: KMS{Address: "https://head:8200", CA: newCA(t)},
		Class: map[string]Class{Dedicated: {Recipients: []string{r1, r2}, MaxExpiry: &fortnight}, OnDemand: {Recipients: []string{r3}}},
	}
}

func encode(t testing.TB, f *File) []byte {
	t.Helper()
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newImageKey is a new OpenPGP key in armor.
func newImageKey(t testing.TB) string {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "test@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestImageKeysAreOptionalAndChangeTheFingerprint(t *testing.T) {
	f := valid(t)
	if keys, err := f.ImageKeys(); keys != nil || err != nil {
		t.Errorf("a file without them: %v, %v", keys, err)
	}
	without := f.Fingerprint()
	key := newImageKey(t)
	f.Images = &Images{Keys: "\n" + key + "\n"}
	got, err := Parse(encode(t, f))
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := got.ImageKeys(); err != nil || len(keys.Fingerprints()) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	if !bytes.Equal(encode(t, got), encode(t, f)) || got.Fingerprint() == without {
		t.Error("the canonical form is not stable, or the fingerprint leaves the keys out")
	}
	for name, bad := range map[string]string{
		"empty": "", "no armor": "ABCD", "quotes": key + `"""` + "\n[class.on-demand]", "backslash": key + `\n`,
		"carriage return": strings.ReplaceAll(key, "\n", "\r\n"), "twice": key + "\n" + key,
	} {
		f.Images = &Images{Keys: bad}
		if _, err := f.Encode(); err == nil || !strings.Contains(err.Error(), "images") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASiteFileComesBackFromItsCanonicalForm(t *testing.T) {
	f := valid(t)
	b := encode(t, f)
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if again := encode(t, got); !bytes.Equal(again, b) {
		t.Errorf("second encoding differs:\n%s\n%s", b, again)
	}
	if got.Fingerprint() != f.Fingerprint() || !strings.HasPrefix(f.Fingerprint(), "SHA256:") {
		t.Errorf("fingerprints %s and %s", got.Fingerprint(), f.Fingerprint())
	}
	if len(got.Class[Dedicated].Recipients) != 2 || got.Class[Dedicated].MaxExpiry.String() != "14d" || got.KMS.Address != "https://head:8200" {
		t.Errorf("got %+v", got)
	}
}

func TestTheFingerprintIgnoresCommentsAndSpacingButNoValue(t *testing.T) {
	f := valid(t)
	b := encode(t, f)
	spaced, err := Parse([]byte("# from the administrator\n" + strings.ReplaceAll(string(b), " = ", "  =  ")))
	if err != nil {
		t.Fatal(err)
	}
	if spaced.Fingerprint() != f.Fingerprint() {
		t.Error("a comment changed the fingerprint")
	}
	seen := map[string]string{f.Fingerprint(): "original"}
	for name, change := range map[string]func(*File){
		"cluster":   func(f *File) { f.Cluster = "lab2" },
		"address":   func(f *File) { f.KMS.Address = "https://head:8201" },
		"CA":        func(f *File) { f.KMS.CA = newCA(t) },
		"recipient": func(f *File) { _, r := newRecipient(t); f.Class[OnDemand] = Class{Recipients: []string{r}} },
		"class":     func(f *File) { delete(f.Class, OnDemand) },
	} {
		g, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		change(g)
		if other, dup := seen[g.Fingerprint()]; dup || g.Fingerprint() == "" {
			t.Errorf("changing the %s gives the fingerprint of the %s", name, other)
		}
		seen[g.Fingerprint()] = name
	}
}

func TestWhatIsEncryptedToAClassOpensWithItsIdentity(t *testing.T) {
	id, r := newRecipient(t)
	f := valid(t)
	f.Class[Dedicated] = Class{Recipients: []string{r}}
	to, err := f.AgeRecipients(Dedicated)
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to...)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "for the nodes")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r2, err := age.Decrypt(&sealed, id)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r2); err != nil || string(b) != "for the nodes" {
		t.Errorf("%q, %v", b, err)
	}
	delete(f.Class, OnDemand)
	if _, err := f.AgeRecipients(OnDemand); err == nil || !strings.Contains(err.Error(), "only dedicated") {
		t.Errorf("recipients of a missing class: %v", err)
	}
}

func TestAnythingButAnExactSiteFileIsRefused(t *testing.T) {
	f := valid(t)
	good := string(encode(t, f))
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatalf("the file that the cases start from: %v", err)
	}
	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	rec := f.Class[OnDemand].Recipients[0]
	privateKey := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	replace := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("the file has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, c := range map[string]struct{ file, want string }{
		"empty":                    {"", "format 0"},
		"not TOML":                 {"{", "toml"},
		"other format":             {replace("format = 1", "format = 2"), "format 2"},
		"unknown key":              {"color = 1\n" + good, "unknown key color"},
		"unknown key below":        {replace("[kms]", "[kms]\ninsecure = true"), "unknown key kms.insecure"},
		"other case":               {replace("cluster =", "Cluster ="), "unknown key Cluster"},
		"both cases":               {"Cluster = \"evil\"\n" + good, "unknown key Cluster"},
		"key twice":                {"cluster = \"evil\"\n" + good, "cluster"},
		"unknown key of images":    {good + "\n[images]\nunsigned = true\n", "unknown key images.unsigned"},
		"images without keys":      {good + "\n[images]\n", "images"},
		"unknown class":            {replace("[class.on-demand]", "[class.open]"), "unknown key class.open"},
		"unknown key of a class":   {replace("recipients =", "expiry = 1\nrecipients ="), "unknown key class."},
		"no time at all":           {replace("[class.on-demand]", "[class.on-demand]\nmax_expiry = \"0d\""), "max_expiry"},
		"a time that is a number":  {replace("[class.on-demand]", "[class.on-demand]\nmax_expiry = 14"), "max_expiry"},
		"ten years":                {replace("[class.on-demand]", "[class.on-demand]\nmax_expiry = \"3650d\""), "max_expiry"},
		"cluster with a path":      {replace(`"lab"`, `"../lab"`), "cluster"},
		"cluster in capitals":      {replace(`"lab"`, `"Lab"`), "cluster"},
		"long cluster":             {replace(`"lab"`, `"`+strings.Repeat("a", 41)+`"`), "cluster"},
		"http":                     {replace("https://", "http://"), "not https"},
		"no host":                  {replace("https://head:8200", "https://:8200"), "no host"},
		"user in address":          {replace("https://head", "https://u:p@head"), "more than"},
		"path in address":          {replace(":8200", ":8200/v1"), "more than"},
		"no port after colon":      {replace(":8200", ":"), "port"},
		"port 0":                   {replace(":8200", ":0"), "port"},
		"quotes in host":           {replace("head", `he\"ad`), "host"},
		"no CA":                    {replace(f.KMS.CA, ""), "no certificate"},
		"junk before CA":           {replace("-----BEGIN", "junk\n-----BEGIN"), "between"},
		"private key with CA":      {replace(f.KMS.CA, f.KMS.CA+privateKey), "PRIVATE KEY"},
		"CA that is no cert":       {replace(f.KMS.CA, strings.ReplaceAll(privateKey, "PRIVATE KEY", "CERTIFICATE")), "does not parse"},
		"no class":                 {good[:strings.Index(good, "[class")], "no class"},
		"no recipients":            {replace(`  "`+rec+"\",\n", ""), "no recipients"},
		"classic recipient":        {replace(rec, classic.Recipient().String()), "post-quantum"},
		"recipient twice":          {replace(`"`+rec+`"`, `"`+rec+`", "`+rec+`"`), "twice"},
		"recipient in capitals":    {replace(rec, strings.ToUpper(rec)), "post-quantum"},
		"recipient with a changed": {replace(rec, flip(rec)), "recipient 1"},
		"too large":                {good + "#" + strings.Repeat("x", MaxSize), "larger"},
		"recipients as a string":   {replace("recipients = [", "recipients = \"x\"\nfoo = ["), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not speak of %q", err, c.want)
			}
		})
	}
}

// flip changes one character of a recipient to another of bech32's.
func flip(s string) string {
	b := []byte(s)
	i := len(b) / 2
	if b[i] == 'q' {
		b[i] = 'p'
	} else {
		b[i] = 'q'
	}
	return string(b)
}

func TestAddKeepsOneFileAClusterAndNeverSwapsItSilently(t *testing.T) {
	home := filepath.Join(t.TempDir(), "cloister")
	first, second := valid(t), valid(t)
	if _, err := Load(home, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("loading from nothing: %v", err)
	}
	a, err := Add(home, encode(t, first), false)
	if err != nil || a.Fingerprint != first.Fingerprint() || a.Replaced != "" {
		t.Fatalf("%+v, %v", a, err)
	}
	if st, err := os.Stat(a.Path); err != nil || st.Mode().Perm() != 0o600 || a.Path != filepath.Join(home, "sites", "lab.toml") {
		t.Errorf("%s: %v, %v", a.Path, st, err)
	}
	if _, err := Add(home, encode(t, first), false); err != nil {
		t.Errorf("adding the same file again: %v", err)
	}
	_, err = Add(home, encode(t, second), false)
	conflict, ok := errors.AsType[*ConflictError](err)
	if !ok || conflict.Old != first.Fingerprint() || conflict.New != second.Fingerprint() {
		t.Fatalf("adding a different file: %v", err)
	}
	for _, want := range []string{first.Fingerprint(), second.Fingerprint()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not tell %s", err, want)
		}
	}
	if got, err := Load(home, "lab"); err != nil || got.Fingerprint() != first.Fingerprint() {
		t.Errorf("a refused Add changed the file: %v", err)
	}
	if err := os.Chmod(a.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	a, err = Add(home, encode(t, second), true)
	if err != nil || a.Replaced != first.Fingerprint() {
		t.Fatalf("forced: %+v, %v", a, err)
	}
	if st, err := os.Stat(a.Path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode after replacing: %v, %v", st, err)
	}
	if got, err := Load(home, ""); err != nil || got.Fingerprint() != second.Fingerprint() {
		t.Errorf("loading the only one: %v", err)
	}
	third := valid(t)
	third.Cluster = "other"
	if _, err := Add(home, encode(t, third), false); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(home, ""); !errors.Is(err, ErrSeveral) || !strings.Contains(err.Error(), "lab, other") {
		t.Errorf("loading one of two: %v", err)
	}
}

func TestLoadRefusesAFileOfAnotherClusterAndNamesThatArePaths(t *testing.T) {
	home := t.TempDir()
	a, err := Add(home, encode(t, valid(t)), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(a.Path, filepath.Join(filepath.Dir(a.Path), "prod.toml")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(home, "prod"); err == nil || !strings.Contains(err.Error(), "it is of cluster lab") {
		t.Errorf("loading lab's file as prod: %v", err)
	}
	if _, err := Load(home, "../sites/prod"); err == nil {
		t.Error("a path was taken for a cluster")
	}
}

func TestAClusterIsNamedAsInSlurm(t *testing.T) {
	for _, name := range []string{"my_cluster", "hpc.example", "a.toml", "1-a", strings.Repeat("a", 40)} {
		home, f := t.TempDir(), valid(t)
		f.Cluster = name
		if _, err := Add(home, encode(t, f), false); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := Load(home, ""); err != nil || got.Cluster != name {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestAddLeavesTheOldFileWhenTheNewOneCannotBeWritten(t *testing.T) {
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "sites"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Add(home, encode(t, valid(t)), false); err == nil {
		t.Fatal("stored a site file in a directory that is a file")
	}
}

func FuzzParse(f *testing.F) {
	// A corpus with real certificates and recipients is in testdata/fuzz.
	f.Add([]byte("format = 1\ncluster = \"lab\"\n[kms]\naddress = \"https://head\"\nca = \"\"\n[class.dedicated]\nrecipients = []\n"))
	f.Add(encode(f, valid(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			return
		}
		canonical := encode(t, file)
		again, err := Parse(canonical)
		if err != nil {
			t.Fatalf("the canonical form of an accepted file is refused: %v\n%s", err, canonical)
		}
		if !bytes.Equal(encode(t, again), canonical) {
			t.Fatalf("two canonical forms of\n%s", b)
		}
	})
}
