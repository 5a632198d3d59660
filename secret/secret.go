// Package secret holds key material in memory that is locked where the limit
// allows, never printed, and wiped after use.
//
// It is for keys and passphrases. It does not protect against a debugger or
// against root on the same machine: both are trusted where keys are open
// (see docs/threat-model.md).
package secret

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

// Redacted is what a secret prints as, whatever the verb.
const Redacted = "[secret]"

// Bytes is a secret byte string. The zero value is empty. Copying the struct
// shares the same memory, so one Wipe serves all copies.
type Bytes struct{ b []byte }

// New returns a secret that holds a copy of b, in locked memory where
// RLIMIT_MEMLOCK allows it, and wipes b.
func New(b []byte) Bytes {
	s := Alloc(len(b))
	copy(s.b, b)
	clear(b)
	return s
}

// Alloc returns a zeroed secret of n bytes for the caller to fill through
// Reveal.
func Alloc(n int) Bytes {
	b := make([]byte, n)
	lock(b)
	return Bytes{b}
}

// Random returns n bytes read from rand, which must be crypto/rand.Reader
// outside tests.
func Random(rand io.Reader, n int) (Bytes, error) {
	s := Alloc(n)
	if _, err := io.ReadFull(rand, s.b); err != nil {
		return Bytes{}, fmt.Errorf("reading %d random bytes: %w", n, err)
	}
	return s, nil
}

// Reveal returns the secret's own memory, not a copy.
func (s Bytes) Reveal() []byte { return s.b }

// Len is the length in bytes.
func (s Bytes) Len() int { return len(s.b) }

// Equal compares in constant time.
func (s Bytes) Equal(o Bytes) bool { return subtle.ConstantTimeCompare(s.b, o.b) == 1 }

// Wipe overwrites the secret and unlocks its memory. It is safe to call twice.
func (s Bytes) Wipe() {
	clear(s.b)
	unlock(s.b)
}

// Format makes every verb of fmt print Redacted, %#v and %x included.
func (s Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// String is Redacted.
func (s Bytes) String() string { return Redacted }

// MarshalJSON refuses: a secret is written out only by code that says Reveal.
func (s Bytes) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a secret has no JSON form")
}

// Encode returns the standard padded base64 form, itself secret.
func (s Bytes) Encode() Bytes {
	e := Alloc(base64.StdEncoding.EncodedLen(len(s.b)))
	base64.StdEncoding.Encode(e.b, s.b)
	return e
}

// Decode reads the canonical form that Encode writes and wipes its input.
// Anything else, line breaks and changed tail bits included, is an error that
// does not quote the input.
func Decode(encoded []byte) (Bytes, error) {
	defer clear(encoded)
	d := Alloc(base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Strict().Decode(d.b, encoded)
	if err != nil {
		d.Wipe()
		return Bytes{}, errors.New("decoding a secret: not canonical base64")
	}
	out := Bytes{d.b[:n:n]}
	again := out.Encode()
	defer again.Wipe()
	if subtle.ConstantTimeCompare(again.b, encoded) != 1 {
		d.Wipe()
		return Bytes{}, errors.New("decoding a secret: not canonical base64")
	}
	return out, nil
}
