package stepproof

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"cloister/noded/memfile"
	"cloister/secret"
)

// KeySize is the length of a step key in bytes (CL_STEP_KEY_BYTES of
// cgo/plugin/proof.h).
const KeySize = 32

// A Key is a session's step key.
type Key struct{ secret.Bytes }

// NewKey makes a key from rand, which must be crypto/rand.Reader outside tests.
func NewKey(rand io.Reader) (Key, error) {
	k, err := secret.Random(rand, KeySize)
	return Key{k}, err
}

// ErrProof says that a proof is not of this claim, or not of this session.
var ErrProof = errors.New("the proof is not of this step")

// Check tells in constant time whether the proof, hexadecimal digits, is of
// the claim. It returns ErrProof when it is not.
func (k Key) Check(c *Claim, proof string) error {
	got, err := hex.DecodeString(proof)
	if err != nil || k.Len() != KeySize {
		return ErrProof
	}
	h := hmac.New(sha256.New, k.Reveal())
	h.Write(c.bytes)
	if !hmac.Equal(got, h.Sum(nil)) {
		return ErrProof
	}
	return nil
}

// File returns the key in a sealed file in memory, for systemd's descriptor
// store.
func (k Key) File() (*os.File, error) {
	f, err := memfile.New("cloister-step-key", k.Reveal())
	if err != nil {
		return nil, fmt.Errorf("keeping the step key: %w", err)
	}
	return f, nil
}

// ReadKey reads what File made.
func ReadKey(f *os.File) (Key, error) {
	b, err := memfile.Read(f, KeySize)
	if err != nil {
		return Key{}, fmt.Errorf("reading the step key: %w", err)
	}
	if len(b) != KeySize {
		clear(b)
		return Key{}, fmt.Errorf("reading the step key: %d bytes", len(b))
	}
	return Key{secret.New(b)}, nil
}
