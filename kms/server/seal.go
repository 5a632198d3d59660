package server

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Tokens are 32 random bytes behind a prefix that tells people, and secret
// scanners, what they look at.
const (
	userTokenPrefix = "cku."
	wrapTokenPrefix = "ckw."
	tokenBytes      = 32
)

type tokenHash [sha256.Size]byte

// hashToken is how a token is stored. The token has 256 random bits, so a
// plain hash is enough: there is nothing to guess.
func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }

func newToken(prefix string) string {
	var b [tokenBytes]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	defer clear(b[:])
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

const (
	sealSaltSize = 32
	sealInfo     = "cloister-kms wrapped payload v1"
)

// seal encrypts what is wrapped under a key that only the token's holder can
// derive. Salt and token are fresh for each call, so the key is used once and
// the nonce can be zero. context is authenticated: a record whose stored
// times were edited does not open.
func seal(token string, context, plain []byte) ([]byte, error) {
	salt := make([]byte, sealSaltSize)
	rand.Read(salt)
	aead, err := sealKey(token, salt)
	if err != nil {
		return nil, err
	}
	return aead.Seal(salt, make([]byte, aead.NonceSize()), plain, context), nil
}

func unseal(token string, context, sealed []byte) ([]byte, error) {
	if len(sealed) < sealSaltSize+chacha20poly1305.Overhead {
		return nil, errors.New("stored record is too short")
	}
	aead, err := sealKey(token, sealed[:sealSaltSize])
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[sealSaltSize:], context)
	if err != nil {
		return nil, errors.New("stored record does not authenticate")
	}
	return plain, nil
}

func sealKey(token string, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(token), salt, sealInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving the record's key: %w", err)
	}
	defer clear(key)
	return chacha20poly1305.New(key)
}
