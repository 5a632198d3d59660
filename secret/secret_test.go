package secret

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestASecretNeverPrintsWhateverTheVerb(t *testing.T) {
	s := New([]byte("hunter2hunter2"))
	wrapped := struct{ Key Bytes }{s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{s, &s, wrapped} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74") || strings.Contains(out, "104 117") {
				t.Errorf("%s printed the secret: %s", verb, out)
			}
		}
	}
	if _, err := json.Marshal(wrapped); err == nil {
		t.Error("a secret was marshalled to JSON")
	}
}

func TestNewWipesItsInputAndWipeClearsEveryCopy(t *testing.T) {
	in := []byte("key")
	s := New(in)
	if !bytes.Equal(in, make([]byte, 3)) {
		t.Error("New left the key in the caller's buffer")
	}
	twin := s
	s.Wipe()
	s.Wipe()
	if !bytes.Equal(twin.Reveal(), make([]byte, 3)) {
		t.Error("a copy survived Wipe")
	}
}

func TestDecodeAcceptsOnlyTheCanonicalForm(t *testing.T) {
	s, err := Random(rand.Reader, 32)
	if err != nil {
		t.Fatal(err)
	}
	e := string(s.Encode().Reveal())
	if got, err := Decode([]byte(e)); err != nil || !got.Equal(s) {
		t.Fatalf("round trip: %v", err)
	}
	for _, bad := range []string{e[:len(e)-1], e + "\n", e[:4] + "\r\n" + e[4:], strings.TrimRight(e, "="), "????"} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("accepted %d bytes of non-canonical base64", len(bad))
		}
	}
}
