package image

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// DSSE envelopes (github.com/secure-systems-lab/dsse) are the signatures that
// `apptainer sign --key` makes with a PEM key. One envelope may hold those of
// several keys.

// dssePayload is the type of what is signed in a SIF file, from the sif module's
// pkg/integrity/dsse.go.
const dssePayload = "application/vnd.sylabs.sif-metadata+json"

// A pemKey checks DSSE signatures.
type pemKey struct {
	fingerprint string
	signature.Verifier
}

const (
	beginPEM = "-----BEGIN PUBLIC KEY-----"
	endPEM   = "-----END PUBLIC KEY-----"
)

// addPEM takes one public key, as `openssl pkey -pubout` writes it.
func (k *Keys) addPEM(text string) error {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(block.Headers) > 0 || len(rest) > 0 || !bytes.Equal(bytes.TrimSpace(pem.EncodeToMemory(block)), []byte(text)) {
		return errors.New("a PEM public key is not written as openssl does")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("a PEM public key: %w", err)
	}
	fp := fingerprintPEM(block.Bytes)
	switch key := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P224() {
			return fmt.Errorf("key %s: P-224 is too weak", fp)
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < MinRSA {
			return fmt.Errorf("key %s: RSA with %d bits is too weak, %d are needed", fp, bits, MinRSA)
		}
	default:
		return fmt.Errorf("key %s: only Ed25519, ECDSA and RSA keys are served", fp)
	}
	v, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		return fmt.Errorf("key %s: %w", fp, err)
	}
	if k.Allows(fp) {
		return fmt.Errorf("key %s is given twice", fp)
	}
	k.pem = append(k.pem, pemKey{fp, v})
	return nil
}

// fingerprintPEM is the SHA-256 of a key in PKIX form.
func fingerprintPEM(der []byte) string {
	sum := sha256.Sum256(der)
	return "SHA256:" + hex.EncodeToString(sum[:])
}

func (k *Keys) verifiers() []signature.Verifier {
	var vs []signature.Verifier
	for _, p := range k.pem {
		vs = append(vs, p.Verifier)
	}
	return vs
}

// An envelope is what a DSSE signature object holds; fields in any case, as the
// sif module's decoder takes them.
type envelope struct {
	PayloadType string `json:"payloadType"`
	Payload     []byte `json:"payload"`
	Signatures  []struct {
		KeyID string `json:"keyid"`
		Sig   []byte `json:"sig"`
	} `json:"signatures"`
}

// parseEnvelope returns nil if b is something else.
func parseEnvelope(b []byte) *envelope {
	var e envelope
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if d.Decode(&e) != nil || len(bytes.TrimSpace(b[d.InputOffset():])) > 0 || e.PayloadType != dssePayload {
		return nil
	}
	return &e
}

// dsseHashes are the numbers of SHA-256, SHA-384 and SHA-512 in a signature's
// descriptor, from the sif module's sif.go.
var dsseHashes = map[byte]crypto.Hash{1: crypto.SHA256, 2: crypto.SHA384, 3: crypto.SHA512}

func (l *layout) checkEnvelope(s object, e *envelope) error {
	if n := len(e.Signatures); n == 0 || n > MaxSignatures {
		return fmt.Errorf("%w: signature %d holds %d signatures, from 1 to %d are served", ErrMalformed, s.ID, n, MaxSignatures)
	}
	if _, ok := dsseHashes[s.Extra[0]]; !ok || s.Extra[1] != 0 || s.Extra[2] != 0 || s.Extra[3] != 0 {
		return fmt.Errorf("%w: signature %d uses an unknown hash", ErrAltered, s.ID)
	}
	return nil
}

// acceptedPEM returns the fingerprints of the keys that were accepted for an
// envelope. It wants one for each of its signatures: a second signature by a key
// that is not allowed refuses the image, as it does with OpenPGP.
func acceptedPEM(keys []crypto.PublicKey, signatures int) ([]string, error) {
	var fps []string
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, err
		}
		fps = append(fps, fingerprintPEM(der))
	}
	slices.Sort(fps)
	fps = slices.Compact(fps)
	if len(fps) != signatures {
		return nil, fmt.Errorf("%w: %d of %d DSSE signatures are by keys that are", ErrUnknownKey, len(fps), signatures)
	}
	return fps, nil
}

// checkDSSE checks an envelope's signatures over its own payload.
func (k *Keys) checkDSSE(b []byte, e *envelope, hash crypto.Hash) error {
	if len(k.pem) == 0 {
		return fmt.Errorf("%w: it has a DSSE signature, and no PEM key is allowed", ErrUnknownKey)
	}
	var accepted []crypto.PublicKey
	var vs []signature.Verifier
	for _, p := range k.pem {
		vs = append(vs, noting{p.Verifier, &accepted})
	}
	v := dsse.WrapMultiVerifierWithOpts(dssePayload, 1, vs, dsse.WithExpectedPayloadType(dssePayload))
	if err := v.VerifySignature(bytes.NewReader(b), nil, options.WithHash(hash)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknownKey, err)
	}
	_, err := acceptedPEM(accepted, len(e.Signatures))
	return err
}

// noting is a verifier that notes for whose keys it found a signature good.
type noting struct {
	signature.Verifier
	accepted *[]crypto.PublicKey
}

func (n noting) VerifySignature(sig, message io.Reader, opts ...signature.VerifyOption) error {
	if err := n.Verifier.VerifySignature(sig, message, opts...); err != nil {
		return err
	}
	key, err := n.PublicKey()
	*n.accepted = append(*n.accepted, key)
	return err
}
