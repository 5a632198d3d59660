package image

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const (
	// MaxKeyring is the largest keyring that ParseKeys reads, in bytes. A
	// key of 4096-bit RSA with a few signatures takes about 4 KiB in armor.
	MaxKeyring = 256 << 10
	// MaxKeys is the largest number of keys in a keyring.
	MaxKeys = 64
	// MinRSA is the shortest RSA modulus in bits that BSI TR-02102 and NIST
	// SP 800-131A still allow for checking signatures.
	MinRSA = 2048

	beginKeys = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	endKeys   = "-----END PGP PUBLIC KEY BLOCK-----"
)

// Keys are the public keys whose images may run.
type Keys struct {
	ring openpgp.EntityList
	pem  []pemKey
}

// ReadKeys is ParseKeys of all that r has, of which it reads no more than is
// needed to refuse it.
func ReadKeys(r io.Reader) (*Keys, error) {
	armored, err := io.ReadAll(io.LimitReader(r, MaxKeyring+1))
	if err != nil {
		return nil, fmt.Errorf("reading a keyring: %w", err)
	}
	return ParseKeys(armored)
}

// ParseKeys reads one or more armored OpenPGP public key blocks (`gpg --armor
// --export`) and PEM public keys (`openssl pkey -pubout`), with nothing but white
// space around them. It refuses private keys, certificates, DSA, P-224 and RSA
// shorter than MinRSA, more than MaxKeys keys or MaxKeyring bytes, a key given
// twice, and a block in which any packet is not understood.
func ParseKeys(armored []byte) (*Keys, error) {
	if len(armored) > MaxKeyring {
		return nil, fmt.Errorf("reading a keyring: %d bytes, the limit is %d", len(armored), MaxKeyring)
	}
	k := &Keys{}
	rest := strings.TrimSpace(string(armored))
	if rest == "" {
		return nil, errors.New("reading a keyring: it is empty")
	}
	for rest != "" {
		if strings.HasPrefix(rest, "-----BEGIN PGP PRIVATE KEY BLOCK") {
			return nil, errors.New("reading a keyring: it holds a private key; export the public one")
		}
		last, add := endKeys, k.add
		if strings.HasPrefix(rest, beginPEM) {
			last, add = endPEM, k.addPEM
		}
		end := strings.Index(rest, last)
		if !strings.HasPrefix(rest, beginKeys) && !strings.HasPrefix(rest, beginPEM) || end < 0 {
			return nil, errors.New("reading a keyring: something is not an armored PGP public key block, nor a PEM public key")
		}
		end += len(last)
		if err := add(rest[:end]); err != nil {
			return nil, fmt.Errorf("reading a keyring: %w", err)
		}
		if len(k.ring)+len(k.pem) > MaxKeys {
			return nil, fmt.Errorf("reading a keyring: more than %d keys", MaxKeys)
		}
		rest = strings.TrimSpace(rest[end:])
	}
	return k, nil
}

// Fingerprints of all keys, the OpenPGP ones first: as Verdict spells them.
func (k *Keys) Fingerprints() []string {
	var fps []string
	for _, e := range k.ring {
		fps = append(fps, fingerprint(e))
	}
	for _, p := range k.pem {
		fps = append(fps, p.fingerprint)
	}
	return fps
}

func (k *Keys) none() bool { return k == nil || len(k.ring)+len(k.pem) == 0 }

// Allows reports whether the key with this fingerprint, as Fingerprints
// spells it, is in the keyring.
func (k *Keys) Allows(fp string) bool { return slices.Contains(k.Fingerprints(), fp) }

func (k *Keys) add(armored string) error {
	block, err := armor.Decode(strings.NewReader(armored))
	if err != nil {
		return fmt.Errorf("decoding armor: %w", err)
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(block.Body); err != nil {
		return fmt.Errorf("decoding armor: %w", err)
	}
	n, err := countPrimary(raw.Bytes())
	if err != nil {
		return err
	}
	ring, err := openpgp.ReadKeyRing(bytes.NewReader(raw.Bytes()))
	if err != nil {
		return err
	}
	// ReadKeyRing drops keys that it does not understand without a word. An
	// administrator who listed such a key shall hear of it now, not when the
	// first image is refused.
	if n != len(ring) {
		return fmt.Errorf("%d of %d keys could not be used", n-len(ring), n)
	}
	for _, e := range ring {
		if err := acceptable(e); err != nil {
			return fmt.Errorf("key %s: %w", fingerprint(e), err)
		}
		if k.Allows(fingerprint(e)) {
			return fmt.Errorf("key %s is given twice", fingerprint(e))
		}
		if k.ring = append(k.ring, e); len(k.ring) > MaxKeys {
			return fmt.Errorf("more than %d keys", MaxKeys)
		}
	}
	return nil
}

// countPrimary counts the primary keys among the packets of a binary keyring,
// and refuses private ones.
func countPrimary(raw []byte) (int, error) {
	n, packets := 0, packet.NewReader(bytes.NewReader(raw))
	for {
		p, err := packets.NextWithUnsupported()
		if err != nil {
			if err == io.EOF && n > 0 {
				return n, nil
			}
			return 0, fmt.Errorf("after %d keys: %w", n, err)
		}
		if u, ok := p.(*packet.UnsupportedPacket); ok {
			p = u.IncompletePacket
		}
		switch p := p.(type) {
		case *packet.PrivateKey:
			return 0, errors.New("it holds a private key; export the public one")
		case *packet.PublicKey:
			if !p.IsSubkey {
				n++
			}
		}
	}
}

func acceptable(e *openpgp.Entity) error {
	keys := []*packet.PublicKey{e.PrimaryKey}
	for _, s := range e.Subkeys {
		keys = append(keys, s.PublicKey)
	}
	for _, pk := range keys {
		if !pk.CanSign() {
			continue
		}
		if pk.PubKeyAlgo == packet.PubKeyAlgoDSA {
			return errors.New("DSA keys are too weak")
		}
		bits, err := pk.BitLength()
		if err != nil {
			return err
		}
		if (pk.PubKeyAlgo == packet.PubKeyAlgoRSA || pk.PubKeyAlgo == packet.PubKeyAlgoRSASignOnly) && bits < MinRSA {
			return fmt.Errorf("RSA with %d bits is too weak, %d are needed", bits, MinRSA)
		}
	}
	return nil
}

func fingerprint(e *openpgp.Entity) string {
	return strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))
}
