package sealed

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"cloister/sealed/signers"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// skTrailer is the length of what a security key adds to its signature: flags
// (1) and counter (4), both signed (PROTOCOL.u2f).
const skTrailer = 5

// canonicalSignature refuses second encodings of one signature that the outer
// re-encoding cannot see, since it takes the innermost signature as opaque
// bytes: the verifier skips bytes after it, pads a short RSA signature, and
// reads several forms of one ECDSA integer.
func canonicalSignature(s *sshsig.Signature) error {
	trailer := 0
	key := signers.Plain(s.PublicKey)
	switch key.Type() {
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		trailer = skTrailer
	}
	if len(s.Signature.Rest) != trailer {
		return fmt.Errorf("its signature has %d bytes after its end", len(s.Signature.Rest))
	}
	switch key.Type() {
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		var n struct{ R, S *big.Int }
		if err := ssh.Unmarshal(s.Signature.Blob, &n); err != nil {
			return fmt.Errorf("reading its ECDSA signature: %w", err)
		}
		if !bytes.Equal(ssh.Marshal(n), s.Signature.Blob) {
			return errors.New("its ECDSA signature is not in canonical form")
		}
	case ssh.KeyAlgoRSA:
		// sshsig looks at this for a plain key alone.
		if f := s.Signature.Format; f != ssh.KeyAlgoRSASHA512 && f != ssh.KeyAlgoRSASHA256 {
			return fmt.Errorf("its RSA signature is of type %q, not SHA-2", f)
		}
		c, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("its RSA key is not readable")
		}
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); !ok || len(s.Signature.Blob) != k.Size() {
			return errors.New("its RSA signature has not the length of the key")
		}
	}
	return nil
}
