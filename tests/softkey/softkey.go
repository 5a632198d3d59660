// Package softkey is a FIDO security key in software, for tests: it signs as
// OpenSSH's PROTOCOL.u2f says that the hardware does. It protects no key.
package softkey

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"slices"

	"golang.org/x/crypto/ssh"
)

// The flags that a key signs (PROTOCOL.u2f).
const (
	Touched  = 0x01
	Verified = 0x04 // by PIN or fingerprint
)

const application = "ssh:"

// A Key signs over the hash of the application, Flags, Counter and the hash of
// the message.
type Key struct {
	Flags   byte
	Counter uint32

	public ssh.PublicKey
	sign   func(message []byte) ([]byte, error) // the signature's blob
}

// New makes a key of type ssh.KeyAlgoSKED25519 or ssh.KeyAlgoSKECDSA256 that is
// always touched.
func New(kind string) (*Key, error) {
	k := &Key{Flags: Touched, Counter: 7}
	var blob []byte
	switch kind {
	case ssh.KeyAlgoSKED25519:
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		blob = ssh.Marshal(struct {
			Kind        string
			Key         []byte
			Application string
		}{kind, public, application})
		k.sign = func(m []byte) ([]byte, error) { return ed25519.Sign(private, m), nil }
	case ssh.KeyAlgoSKECDSA256:
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		point, err := private.PublicKey.Bytes()
		if err != nil {
			return nil, err
		}
		blob = ssh.Marshal(struct {
			Kind, Curve string
			Point       []byte
			Application string
		}{kind, "nistp256", point, application})
		k.sign = func(m []byte) ([]byte, error) {
			digest := sha256.Sum256(m)
			r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
			return ssh.Marshal(struct{ R, S *big.Int }{r, s}), err
		}
	default:
		return nil, fmt.Errorf("%q is no type of security key", kind)
	}
	var err error
	k.public, err = ssh.ParsePublicKey(blob)
	return k, err
}

// PublicKey is for ssh.Signer.
func (k *Key) PublicKey() ssh.PublicKey { return k.public }

// Sign is for ssh.Signer.
func (k *Key) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	trailer := binary.BigEndian.AppendUint32([]byte{k.Flags}, k.Counter)
	app, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	blob, err := k.sign(slices.Concat(app[:], trailer, message[:]))
	return &ssh.Signature{Format: k.public.Type(), Blob: blob, Rest: trailer}, err
}
