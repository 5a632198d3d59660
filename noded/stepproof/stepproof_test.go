package stepproof

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"cloister/noded/memfile"
)

// good are the fields of a claim as cgo/plugin/claim.c writes them.
var good = []string{"cloister-step=1", "job=7", "step=3", "uid=2001", "nnodes=1", "ntasks=2", "nonce=" + strings.Repeat("0a", 16), "cwd=/data",
	"arg=/bin/sh", "arg=-c", "arg=", "env=A=1", "env=HOME=/home/alice", "env=Z=two\nlines"}

func claim(fields ...string) []byte { return []byte(strings.Join(fields, "\x00") + "\x00") }

func TestAClaimIsRead(t *testing.T) {
	c, err := Parse(claim(good...))
	if err != nil {
		t.Fatal(err)
	}
	if c.Job != 7 || c.Step != 3 || c.UID != 2001 || c.Nodes != 1 || c.Tasks != 2 || c.Cwd != "/data" {
		t.Errorf("read as %+v", c)
	}
}

func TestAnOddClaimIsRefused(t *testing.T) {
	with := func(i int, field string) []byte {
		f := append([]string(nil), good...)
		f[i] = field
		return claim(f...)
	}
	without := func(i int) []byte {
		return claim(append(append([]string(nil), good[:i]...), good[i+1:]...)...)
	}
	cases := map[string][]byte{
		"nothing": nil, "no end": claim(good...)[:40], "another format": with(0, "cloister-step=2"), "no job": without(1), "a sign": with(2, "step=+3"),
		"a leading zero": with(2, "step=03"), "33 bits": with(3, "uid=4294967296"), "a short nonce": with(6, "nonce=0a"), "a nonce in capitals": with(6, "nonce="+strings.Repeat("0A", 16)),
		"relative cwd": with(7, "cwd=data"), "unclean cwd": with(7, "cwd=/data/.."), "an unknown field": with(9, "x=1"), "variables out of order": with(13, "env=B=1"),
		"a variable twice": with(12, "env=A=1"), "an argument behind a variable": with(12, "arg=x"), "too long": append(claim(good...), make([]byte, MaxClaim)...),
	}
	for name, b := range cases {
		if c, err := Parse(b); err == nil {
			t.Errorf("%s was read as %+v", name, c)
		}
	}
}

func proof(key Key, b []byte) string {
	h := hmac.New(sha256.New, key.Reveal())
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

func key(t *testing.T) Key {
	t.Helper()
	k, err := NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAProofIsOfOneClaimAndOneSession(t *testing.T) {
	k, b := key(t), claim(good...)
	c, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Check(c, proof(k, b)); err != nil {
		t.Errorf("a good proof: %v", err)
	}
	for i := range good {
		f := append([]string(nil), good...)
		f[i] += "1"
		changed, err := Parse(claim(f...))
		if err != nil {
			continue // refused before its proof is looked at
		}
		if err := k.Check(changed, proof(k, b)); !errors.Is(err, ErrProof) {
			t.Errorf("with %q the proof still holds: %v", f[i], err)
		}
	}
	for name, p := range map[string]string{"another session's": proof(key(t), b), "none": "", "odd": "xyz", "short": proof(k, b)[:62]} {
		if err := k.Check(c, p); !errors.Is(err, ErrProof) {
			t.Errorf("%s proof: %v", name, err)
		}
	}
	wiped := key(t)
	p := proof(wiped, b)
	wiped.Wipe()
	if err := wiped.Check(c, p); !errors.Is(err, ErrProof) {
		t.Errorf("a proof by a key that was wiped: %v", err)
	}
	if err := (Key{}).Check(c, proof(Key{}, b)); !errors.Is(err, ErrProof) {
		t.Errorf("a proof by no key: %v", err)
	}
}

func TestAKeySurvivesInAFileThatNobodyCanChange(t *testing.T) {
	k := key(t)
	f, err := k.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("the kept key can be changed")
	}
	again, err := ReadKey(f)
	if err != nil || !again.Equal(k.Bytes) {
		t.Errorf("the key did not come back: %v", err)
	}
}

func TestAClaimThatIsNotSealedOrTooLargeIsNotRead(t *testing.T) {
	for name, size := range map[string]int{"a claim": 0, "one above MaxClaim": MaxClaim} {
		f, err := memfile.New("test", append(claim(good...), make([]byte, size)...))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := Read(f); (err == nil) != (size == 0) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ordinary, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer ordinary.Close()
	if _, err := Read(ordinary); err == nil {
		t.Error("a file on disk was read")
	}
}

func TestAStepIsSpentOnce(t *testing.T) {
	var s Spent
	order := []uint32{5, 0, 3, 4, 1, 7, 6, 2, 0xffffffff, 0xfffffffe}
	for i, n := range order {
		if !s.Add(n) {
			t.Errorf("step %d is not new", n)
		}
		for _, before := range order[:i+1] {
			if s.Add(before) {
				t.Errorf("after step %d, step %d is new again in %v", n, before, s)
			}
		}
	}
	if len(s) != 2 || s[0] != [2]uint32{0, 7} {
		t.Errorf("kept as %v, not as two runs", s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again Spent
	if err := json.Unmarshal(b, &again); err != nil || again.Add(7) {
		t.Errorf("after a restart step 7 is new: %s, %v", b, err)
	}
}

// FuzzClaim: what is read means one thing only.
func FuzzClaim(f *testing.F) {
	f.Add(claim(good...))
	f.Add(claim(good[:8]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		if c.Cwd[0] != '/' || len(c.Nonce) != nonceDigits || !bytes.Equal(c.bytes, b) {
			t.Errorf("%q was read as %+v", b, c)
		}
		var s Spent
		if !s.Add(c.Step) || s.Add(c.Step) {
			t.Errorf("step %d is not spent once", c.Step)
		}
	})
}
