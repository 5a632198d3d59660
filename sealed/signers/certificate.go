package signers

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// checkCertificate refuses a certificate that does not let its principals sign
// at the time now. That its authority is allowed is for the caller to know.
func checkCertificate(c *ssh.Certificate, now time.Time) error {
	unix := uint64(max(now.Unix(), 0))
	switch {
	case c.CertType != ssh.UserCert:
		return errors.New("it is not a user's")
	case len(c.ValidPrincipals) == 0:
		return errors.New("it names no principal") // to sshd that is everybody, to ssh-keygen -Y nobody
	case c.Signature.Format == ssh.KeyAlgoRSA:
		return errors.New("its authority signed it with SHA-1")
	case unix < c.ValidAfter || unix >= c.ValidBefore: // sshkey.c: the end is not part of it
		return ErrNotNow
	}
	if err := CheckKey(c.Key); err != nil {
		return err
	}
	// Critical options, and the authority's signature.
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	if err := checker.CheckCert(c.ValidPrincipals[0], c); err != nil {
		return fmt.Errorf("checking it: %w", err)
	}
	return nil
}
