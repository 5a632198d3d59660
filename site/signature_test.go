package site

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t *testing.T, f *File, s ssh.Signer, at time.Time) []byte {
	t.Helper()
	b, err := f.Sign(s, at)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var day = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestASignedFileNamesItsSignerAndStaysTOML(t *testing.T) {
	s := newSigner(t)
	b := sign(t, valid(t), s, day)
	f, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if f.SignedBy() != ssh.FingerprintSHA256(s.PublicKey()) || !f.IssuedAt().Equal(day) {
		t.Errorf("by %s on %v", f.SignedBy(), f.IssuedAt())
	}
	if again, err := f.signed(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("written again it differs: %v", err)
	}
	// Spacing and comments are nobody's business.
	spaced := strings.Replace(string(b), "cluster = ", "# hello\ncluster  =  ", 1)
	if f, err := Parse([]byte(spaced)); err != nil || f.SignedBy() == "" {
		t.Errorf("with other spacing: %v", err)
	}
	if f := valid(t); f.SignedBy() != "" {
		t.Error("an unsigned file has a signer")
	}
}

func TestWhoComparesTheFingerprintPinsNobodyElsesKey(t *testing.T) {
	mine, theirs, unsigned := valid(t), valid(t), valid(t)
	b := sign(t, mine, newSigner(t), day)
	evil := sign(t, theirs, newSigner(t), day)
	unsigned.Issued = mine.Issued
	if mine.Fingerprint() == theirs.Fingerprint() || mine.Fingerprint() == unsigned.Fingerprint() {
		t.Errorf("the same contents have the fingerprint %s whoever signs them", mine.Fingerprint())
	}
	home := t.TempDir()
	a, err := Add(home, b, false)
	if err != nil || a.Fingerprint != mine.Fingerprint() || a.Known {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err := Add(home, b, false); err != nil || !a.Known {
		t.Errorf("the same again: %+v, %v", a, err)
	}
	var conflict *ConflictError
	if _, err := Add(home, evil, false); !errors.As(err, &conflict) || conflict.New != theirs.Fingerprint() || !strings.Contains(conflict.Why, mine.SignedBy()) {
		t.Errorf("the same contents by another key: %v", err)
	}
}

func TestAnyChangeOfASignedFileIsRefused(t *testing.T) {
	good := string(sign(t, valid(t), newSigner(t), day))
	_, other := newRecipient(t)
	i := strings.Index(good, sigBegin)
	mine, theirs := good[:i], string(sign(t, valid(t), newSigner(t), day))
	for name, text := range map[string]string{
		"cluster":             strings.Replace(good, `"lab"`, `"lab2"`, 1),
		"time":                strings.Replace(good, "2026-11-26", "2026-11-27", 1),
		"time taken out":      strings.Replace(good, "issued = \"2026-11-26T12:00:00Z\"\n", "", 1),
		"recipient added":     strings.Replace(good, "recipients = [", "recipients = [\n  \""+other+"\",", 1),
		"another's signature": mine + theirs[strings.Index(theirs, sigBegin):],
		"bytes after it":      good + "x",
		"comment after it":    good + "# x\n",
		"signed twice":        good + good[i:],
		"line missing":        good[:len(good)-len(sigEnd)-1],
		"begins in a line":    mine + "#" + good[i:],
		"CRLF":                mine + strings.ReplaceAll(good[i:], "\n", "\r\n"),
		"base64 changed":      strings.Replace(good, "U1NIU0lH", "U1NIU0lI", 1),
		"other line lengths":  mine + strings.Replace(good[i:], "U1NIU0lH", "U1NIU0lH\n# ", 1),
		"long":                mine + sigBegin + "\n" + strings.Repeat("# x\n", maxSignature) + sigEnd + "\n",
	} {
		if f, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: accepted, signed by %q", name, f.SignedBy())
		}
	}
}

func TestASignedFileIsReplacedByANewerOneOfTheSameKeyAlone(t *testing.T) {
	administrator, stranger := newSigner(t), newSigner(t)
	home := filepath.Join(t.TempDir(), "cloister")
	if _, err := Add(home, sign(t, valid(t), administrator, day), false); err != nil {
		t.Fatal(err)
	}
	unsigned := encode(t, valid(t))
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"unsigned":                   {unsigned, "no signature vouches for"},
		"by a stranger":              {sign(t, valid(t), stranger, day.Add(time.Hour)), "another key signed"},
		"older":                      {sign(t, valid(t), administrator, day.Add(-time.Second)), "is not newer"},
		"another of the same second": {sign(t, valid(t), administrator, day), "is not newer"},
	} {
		_, err := Add(home, c.file, false)
		if _, ok := errors.AsType[*ConflictError](err); !ok || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := valid(t)
	a, err := Add(home, sign(t, newer, administrator, day.Add(time.Second)), false)
	if err != nil || !a.Trusted || a.Replaced == "" {
		t.Fatalf("%+v, %v", a, err)
	}
	// The key stays pinned, also across a forced change and back.
	if f, err := Load(home, "lab"); err != nil || f.Fingerprint() != newer.Fingerprint() || f.SignedBy() != ssh.FingerprintSHA256(administrator.PublicKey()) {
		t.Errorf("stored: %v", err)
	}
	if a, err := Add(home, unsigned, true); err != nil || a.Trusted {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := Add(home, sign(t, valid(t), administrator, day.Add(time.Hour)), false); err == nil {
		t.Error("a file without a signature was replaced by a signed one without a question")
	}
}

func TestStockSSHKeygenVerifiesASignedFile(t *testing.T) {
	s := newSigner(t)
	dir := t.TempDir()
	b := sign(t, valid(t), s, day)
	for name, text := range map[string][]byte{"site.toml": b, "signers": []byte("admin " + string(ssh.MarshalAuthorizedKey(s.PublicKey())))} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `sed -n '/^# -----BEGIN SSH/,$s/^# //p' site.toml > sig
sed '/^# -----BEGIN SSH/,$d' site.toml | ssh-keygen -Y verify -f signers -I admin -n cloister-site -s sig`
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Good") {
		t.Errorf("%v: %s", err, out)
	}
}
