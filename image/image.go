// Package image decides whether a SIF file (the image format of Apptainer and
// Singularity) may run in a secure job, and pins its content.
//
// Verify applies the sif module's default and strictest rules: every object
// in the file is covered by valid signatures, OpenPGP or DSSE, of allowed keys. On
// top of that it demands one primary system partition, squashfs, for
// Architecture, and it checks every offset, count and size of the file before
// it believes one of them. It refuses signatures of the legacy format (they
// leave headers unprotected), partitions that only root can decrypt, and
// signature objects that cover nothing.
//
// It does not run images and it does not look inside the file system. A file
// that others can write may change after any check: verify a copy that nobody
// else can write, and pin it by Digest.
package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// Architecture is the only one that Verify accepts, in Go's spelling: the
// secure nodes' own, whatever machine the check runs on.
const Architecture = "amd64"

// The reasons for a refusal. Verify's errors wrap exactly one of them; tell
// them apart with errors.Is.
var (
	ErrNotSIF       = errors.New("not a SIF image")
	ErrMalformed    = errors.New("the image's table of contents is malformed")
	ErrUnsigned     = errors.New("the image is not signed")
	ErrAltered      = errors.New("the image was altered after it was signed")
	ErrUnknownKey   = errors.New("the image is signed by a key that is not allowed here")
	ErrExpiredKey   = errors.New("the image's signature or its key has expired or was revoked")
	ErrExtraObject  = errors.New("the image holds an object that no signature covers")
	ErrNoPartition  = errors.New("the image has no primary system partition")
	ErrEncrypted    = errors.New("the image was encrypted by root, and no ordinary user can open it; build it with apptainer build --encrypt as one")
	ErrFileSystem   = errors.New("the image's primary partition is not a sound squashfs")
	ErrArchitecture = errors.New("the image is for another architecture")
)

// A Partition is the place of the primary system partition in the file, in
// bytes.
type Partition struct {
	ID     uint32 // object number in the SIF file, as `siftool list` prints it
	Offset int64
	Size   int64
}

// A Verdict says what Verify found in an image that it accepts.
type Verdict struct {
	// Fingerprints of the keys that signed, sorted, each once: of OpenPGP ones in
	// upper-case hexadecimal as gpg prints them, of PEM ones "SHA256:" and the
	// SHA-256 of the PKIX form in hexadecimal. An image may be signed by several
	// keys, all of them allowed.
	Fingerprints []string
	Partition    Partition
	Objects      int // objects covered by signatures
}

// Verify reads the image in f, size bytes long, and returns what it found, or
// an error that wraps one of the reasons above. It reads each object once for
// every signature over it, MaxSignatures at most, and holds a few MiB in
// memory at most, whatever the file claims.
func Verify(f io.ReaderAt, size int64, keys *Keys) (Verdict, error) {
	return verify(f, size, keys, Architecture)
}

func verify(f io.ReaderAt, size int64, keys *Keys, arch string) (Verdict, error) {
	if keys.none() {
		return Verdict{}, fmt.Errorf("%w: no key is allowed", ErrUnknownKey)
	}
	l, err := readLayout(f, size)
	if err != nil {
		return Verdict{}, err
	}
	if err := l.checkCoverage(); err != nil {
		return Verdict{}, err
	}
	fingerprints, verified, err := checkSignatures(l, keys)
	if err != nil {
		return Verdict{}, err
	}
	part, err := l.primaryPartition(arch)
	if err != nil {
		return Verdict{}, err
	}
	// Both loops below repeat in our own terms what the module's default
	// rules promise, so that a change of its defaults cannot pass unseen.
	for _, o := range l.objects {
		if !o.isSignature() && !verified[o.ID] {
			return Verdict{}, fmt.Errorf("%w: object %d", ErrExtraObject, o.ID)
		}
	}
	if !verified[part.ID] {
		return Verdict{}, fmt.Errorf("%w: partition %d", ErrExtraObject, part.ID)
	}
	return Verdict{Fingerprints: fingerprints, Partition: part, Objects: len(verified)}, nil
}

// Inspect tells, without any key, what no key can mend: it returns the errors
// of Verify that do not depend on one, or the fingerprints of those who claim to
// have signed. It checks no signature: an altered image passes.
func Inspect(f io.ReaderAt, size int64) (claimed []string, err error) {
	l, err := readLayout(f, size)
	if err != nil {
		return nil, err
	}
	if err := l.checkCoverage(); err != nil {
		return nil, err
	}
	if _, err := l.primaryPartition(Architecture); err != nil {
		return nil, err
	}
	return slices.Compact(slices.Sorted(slices.Values(l.claimedSigners()))), nil
}

// checkSignatures runs the module's verification with its default options and
// returns the signers and the objects that their signatures cover.
func checkSignatures(l *layout, keys *Keys) (fingerprints []string, verified map[uint32]bool, err error) {
	img, err := sif.LoadContainer(l.snapshot(), sif.OptLoadWithCloseOnUnload(false))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	verified = map[uint32]bool{}
	checked := 0
	var refused error
	v, err := integrity.NewVerifier(img,
		integrity.OptVerifyWithKeyRing(keys.ring), integrity.OptVerifyWithVerifier(keys.verifiers()...),
		integrity.OptVerifyCallback(func(r integrity.VerifyResult) bool {
			by, err := l.signers(r)
			refused = errors.Join(refused, err)
			if len(by) == 0 {
				return false
			}
			checked++
			fingerprints = append(fingerprints, by...)
			for _, o := range r.Verified() {
				verified[o.ID()] = true
			}
			return false
		}))
	if err == nil {
		err = v.Verify()
	}
	if refused != nil {
		return nil, nil, refused
	}
	if err != nil {
		return nil, nil, reason(err, l)
	}
	if signatures := l.signatures(); checked != len(signatures) {
		return nil, nil, fmt.Errorf("%w: %d of %d signatures were checked", ErrExtraObject, checked, len(signatures))
	}
	for _, fp := range fingerprints {
		if !keys.Allows(fp) {
			return nil, nil, fmt.Errorf("%w: %s", ErrUnknownKey, fp)
		}
	}
	slices.Sort(fingerprints)
	return slices.Compact(fingerprints), verified, nil
}

// signers are the keys by which one signature object was found good, nil for none.
func (l *layout) signers(r integrity.VerifyResult) ([]string, error) {
	if r.Error() != nil {
		return nil, nil
	}
	if e := r.Entity(); e != nil {
		return []string{fingerprint(e)}, nil
	}
	return acceptedPEM(r.Keys(), l.envelopes[r.Signature().ID()])
}

// reason puts the module's errors in our words. What it does not know is an
// alteration: every path to an unlisted error starts at bytes that a signer
// did not write.
func reason(err error, l *layout) error {
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return fmt.Errorf("%w: %s", ErrUnknownKey, strings.Join(l.claimedSigners(), ", "))
	case errors.Is(err, pgperrors.ErrKeyExpired), errors.Is(err, pgperrors.ErrSignatureExpired), errors.Is(err, pgperrors.ErrKeyRevoked):
		return fmt.Errorf("%w: %w", ErrExpiredKey, err)
	case errors.Is(err, &integrity.SignatureNotFoundError{}):
		return fmt.Errorf("%w: %w", ErrUnsigned, err)
	case strings.Contains(err.Error(), "dsse: verify envelope failed"), strings.HasSuffix(err.Error(), "key material not provided for DSSE envelope signature"):
		// Nor these. A DSSE signature does not say whose it is, so one that was
		// altered is one of an unknown key.
		return fmt.Errorf("%w: %w", ErrUnknownKey, err)
	case strings.HasSuffix(err.Error(), "object not signed"):
		// The module does not export this error; a test holds its wording.
		return fmt.Errorf("%w: %w", ErrExtraObject, err)
	}
	return fmt.Errorf("%w: %w", ErrAltered, err)
}

// Digest is the SHA-256 of everything in r, in lower-case hexadecimal: what a
// manifest pins an image by. It reads to the end; bound r beforehand.
func Digest(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("hashing an image: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
