package signers

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
	minRSABits = 2048 // NIST SP 800-131A
	maxRSABits = 16384
)

// servedKeys are the key types that golang.org/x/crypto/ssh verifies and that
// are strong enough; DSA is not.
var servedKeys = map[string]bool{
	ssh.KeyAlgoED25519:    true,
	ssh.KeyAlgoECDSA256:   true,
	ssh.KeyAlgoECDSA384:   true,
	ssh.KeyAlgoECDSA521:   true,
	ssh.KeyAlgoRSA:        true,
	ssh.KeyAlgoSKED25519:  true,
	ssh.KeyAlgoSKECDSA256: true,
}

// Plain returns the key that a certificate certifies, and any other key as it
// is.
func Plain(key ssh.PublicKey) ssh.PublicKey {
	if c, ok := key.(*ssh.Certificate); ok {
		return c.Key
	}
	return key
}

// Fingerprint is what ssh-keygen -l prints: of a certificate, that of the key
// in it.
func Fingerprint(key ssh.PublicKey) string { return ssh.FingerprintSHA256(Plain(key)) }

// CheckKey refuses a key that may not sign jobs: of a type that is not served,
// or RSA below 2048 bits. Of a certificate it looks at the key in it.
func CheckKey(key ssh.PublicKey) error {
	key = Plain(key)
	if !servedKeys[key.Type()] {
		return fmt.Errorf("key type %q is not served", key.Type())
	}
	if key.Type() != ssh.KeyAlgoRSA {
		return nil
	}
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return errors.New("an RSA key that cannot be read")
	}
	k, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return errors.New("an RSA key that cannot be read")
	}
	if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits, from %d to %d are served", bits, minRSABits, maxRSABits)
	}
	return nil
}

func isKeyType(word string) bool {
	for _, prefix := range []string{"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"} {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}

func parseKey(kind, blob string) (ssh.PublicKey, error) {
	if !servedKeys[kind] {
		if strings.Contains(kind, "-cert-v0") {
			return nil, fmt.Errorf("key type %q: register the key itself, or the key of its authority with cert-authority", kind)
		}
		return nil, fmt.Errorf("key type %q is not served", kind)
	}
	if blob == "" {
		return nil, fmt.Errorf("key type %q without a key", kind)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(blob)
	if err != nil {
		return nil, fmt.Errorf("the key is not base64: %w", err)
	}
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	if key.Type() != kind {
		return nil, fmt.Errorf("the key is of type %q, the line says %q", key.Type(), kind)
	}
	if !bytes.Equal(key.Marshal(), raw) {
		return nil, errors.New("the key is not in canonical form")
	}
	return key, CheckKey(key)
}
