package server

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"cloister/secret"
)

// StateKeySize is the length of a state key in bytes.
const StateKeySize = chacha20poly1305.KeySize

const (
	stateInfo = "cloister-kms state v1"
	namesInfo = "cloister-kms names v1"
)

// ErrStateKey: the key is not the one that the state is encrypted under.
var ErrStateKey = errors.New("the state key is missing or not the one of this state")

// stateKey encrypts what is stored. A nil one leaves it as it is, which tests
// and demonstrations use; cloister-kms init always makes one.
type stateKey struct {
	aead  cipher.AEAD
	names []byte
}

func newStateKey(key secret.Bytes) (*stateKey, error) {
	if key.Len() == 0 {
		return nil, nil
	}
	if key.Len() != StateKeySize {
		return nil, fmt.Errorf("state key has %d bytes, want %d", key.Len(), StateKeySize)
	}
	sub, err := hkdf.Key(sha256.New, key.Reveal(), nil, stateInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving from the state key: %w", err)
	}
	defer clear(sub)
	names, err := hkdf.Key(sha256.New, key.Reveal(), nil, namesInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving from the state key: %w", err)
	}
	aead, err := chacha20poly1305.NewX(sub)
	if err != nil {
		return nil, fmt.Errorf("deriving from the state key: %w", err)
	}
	return &stateKey{aead, names}, nil
}

// seal encrypts what is stored at place, which is authenticated: nothing opens
// where it was not put. The nonce has 24 bytes, so random ones never meet.
func (k *stateKey) seal(place string, plain []byte) []byte {
	if k == nil {
		return plain
	}
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(plain)+k.aead.Overhead())
	rand.Read(nonce) // never fails (crypto/rand)
	return k.aead.Seal(nonce, nonce, plain, []byte(place))
}

func (k *stateKey) open(place string, sealed []byte) ([]byte, error) {
	if k == nil {
		return sealed, nil
	}
	if len(sealed) < k.aead.NonceSize() {
		return nil, errors.New("too short to be encrypted under the state key")
	}
	n := k.aead.NonceSize()
	plain, err := k.aead.Open(nil, sealed[:n], sealed[n:], []byte(place))
	if err != nil {
		return nil, errors.New("damaged, or encrypted under another state key")
	}
	return plain, nil
}

// name is what the database has in place of a name that tells something.
func (k *stateKey) name(s string) []byte {
	if k == nil {
		return []byte(s)
	}
	m := hmac.New(sha256.New, k.names)
	m.Write([]byte(s))
	return m.Sum(nil)
}
