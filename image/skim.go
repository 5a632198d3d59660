package image

import (
	"bytes"
	"crypto"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
)

// Skim is the part of Verify that takes the same time for every image: the
// table of contents is sound, each object belongs to a group that is signed, and
// each signature is a good one by an allowed key. It does not compare the objects
// with what was signed: an altered image passes. It is for an image whose content
// somebody vouches for who ran Verify.
func Skim(f io.ReaderAt, size int64, keys *Keys) error {
	if keys.none() {
		return fmt.Errorf("%w: no key is allowed", ErrUnknownKey)
	}
	l, err := readLayout(f, size)
	if err != nil {
		return err
	}
	if err := l.checkCoverage(); err != nil {
		return err
	}
	for _, s := range l.signatures() {
		if err := l.checkSignature(s, keys); err != nil {
			return err
		}
	}
	_, err = l.primaryPartition(Architecture)
	return err
}

// hashes are what Verify accepts in a signature.
var hashes = []crypto.Hash{crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}

func (l *layout) checkSignature(s object, keys *Keys) error {
	b := make([]byte, s.Size) // at most MaxSignature
	if _, err := io.ReadFull(io.NewSectionReader(l.f, s.Offset, s.Size), b); err != nil {
		return fmt.Errorf("reading signature %d: %w", s.ID, err)
	}
	if e := parseEnvelope(b); e != nil {
		if err := l.checkEnvelope(s, e); err != nil {
			return err
		}
		return keys.checkDSSE(b, e, dsseHashes[s.Extra[0]])
	}
	block, _ := clearsign.Decode(b)
	if block == nil {
		return fmt.Errorf("%w: signature %d is neither an OpenPGP nor a DSSE one", ErrAltered, s.ID)
	}
	e, err := openpgp.CheckDetachedSignatureAndHash(keys.ring, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, hashes, nil)
	if err != nil {
		return reason(err, l)
	}
	if fp := fingerprint(e); !keys.Allows(fp) {
		return fmt.Errorf("%w: %s", ErrUnknownKey, fp)
	}
	return nil
}
