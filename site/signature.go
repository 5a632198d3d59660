package site

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloister/sealed/signers"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// A site file may end with its administrator's signature: an SSHSIG over every
// byte of the canonical form, in comments, so that it is TOML as before.
const (
	// SignatureNamespace keeps a signature of a site file from being one of
	// anything else.
	SignatureNamespace = "cloister-site"

	comment      = "# "
	sigBegin     = comment + "-----BEGIN SSH SIGNATURE-----"
	sigEnd       = comment + "-----END SSH SIGNATURE-----"
	maxSignature = 16 << 10
)

// issuedForm is RFC 3339 in UTC, to the second: one form for one time.
const issuedForm = "2006-01-02T15:04:05Z"

func parseIssued(s string) (time.Time, error) {
	t, err := time.Parse(issuedForm, s)
	if err != nil || t.Format(issuedForm) != s {
		return time.Time{}, fmt.Errorf("issued %.40q is not a time such as 2026-12-31T00:00:00Z", s)
	}
	return t, nil
}

// IssuedAt is when the file was signed, or the zero time.
func (f *File) IssuedAt() time.Time {
	t, err := parseIssued(f.Issued)
	if err != nil {
		return time.Time{}
	}
	return t
}

// SignedBy is the fingerprint of the administrator's key, or "" for a file
// without a signature.
func (f *File) SignedBy() string {
	if f.signature == nil {
		return ""
	}
	return signers.Fingerprint(f.signature.PublicKey)
}

// Sign sets the time of issue and signs the canonical form. It returns the
// file to give out.
func (f *File) Sign(signer ssh.Signer, now time.Time) ([]byte, error) {
	if _, ok := signer.PublicKey().(*ssh.Certificate); ok {
		return nil, errors.New("signing a site file: by a certificate, which ends; sign with a plain key")
	}
	if err := signers.CheckKey(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("signing a site file: %w", err)
	}
	f.Issued = now.UTC().Format(issuedForm)
	b, err := f.Encode()
	if err != nil {
		return nil, err
	}
	if f.signature, err = sshsig.Sign(bytes.NewReader(b), signer, sshsig.HashSHA512, SignatureNamespace); err != nil {
		return nil, fmt.Errorf("signing a site file: %w", err)
	}
	return f.signed()
}

// signed is the canonical form with the signature, if there is one.
func (f *File) signed() ([]byte, error) {
	b, err := f.Encode()
	if err != nil || f.signature == nil {
		return b, err
	}
	for line := range strings.Lines(string(sshsig.Armor(f.signature))) {
		b = append(b, comment+strings.TrimSuffix(line, "\n")+"\n"...)
	}
	return b, nil
}

// readSignature finds the signature in a file's bytes and checks it against f,
// which was read from them.
func (f *File) readSignature(b []byte) error {
	i := bytes.Index(b, []byte(sigBegin))
	if i < 0 {
		return nil
	}
	if i > 0 && b[i-1] != '\n' {
		return errors.New("its signature does not begin a line")
	}
	block := b[i:]
	if len(block) > maxSignature || !bytes.HasSuffix(block, []byte(sigEnd+"\n")) {
		return errors.New("something after its signature")
	}
	var armored []byte
	for line := range strings.Lines(string(block)) {
		text, ok := strings.CutPrefix(line, comment)
		if !ok {
			return errors.New("its signature is not in comments")
		}
		armored = append(armored, text...)
	}
	s, err := sshsig.Unarmor(armored)
	if err != nil {
		return errors.New("its signature cannot be read")
	}
	if _, ok := s.PublicKey.(*ssh.Certificate); ok || signers.CheckKey(s.PublicKey) != nil {
		return errors.New("its signature is by a key of a kind that is not served")
	}
	if s.Namespace != SignatureNamespace || s.HashAlgorithm != sshsig.HashSHA512 {
		return errors.New("its signature is not one of a site file")
	}
	if f.Issued == "" {
		return errors.New("it is signed and does not say when it was issued")
	}
	canonical, err := f.Encode()
	if err != nil {
		return err
	}
	if err := sshsig.Verify(bytes.NewReader(canonical), s, s.PublicKey, sshsig.HashSHA512, SignatureNamespace); err != nil {
		return errors.New("its signature does not match: it was changed after it was signed")
	}
	f.signature = s
	again, err := f.signed()
	if err != nil {
		return err
	}
	if !bytes.HasSuffix(again, block) {
		return errors.New("its signature is not in canonical form")
	}
	return nil
}
