package signing

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"cloister/client/advice"
	"cloister/sealed/signers"

	"golang.org/x/crypto/ssh"
)

const nextCertificate = "get a new certificate from whoever issues yours, in the same file"

// useCertificate makes the configuration sign with a certificate over its key,
// which is read anew each time: certificates are short-lived.
func (c *Config) useCertificate(path string, key ssh.PublicKey) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	cert, err := readCertificate(path, key)
	if err != nil {
		return err
	}
	c.Certificate, c.Authority = path, authorizedKey(cert.SignatureKey)
	return nil
}

// certify lets the signer show the configuration's certificate, if it has one.
func (c *Config) certify(s ssh.Signer) (ssh.Signer, error) {
	if c.Certificate == "" {
		return s, nil
	}
	cert, err := readCertificate(c.Certificate, s.PublicKey())
	if err != nil {
		return nil, err
	}
	if authorizedKey(cert.SignatureKey) != c.Authority {
		return nil, advice.Refuse("start anew with another CLOISTER_HOME, if that is right", "the certificate %s is by another authority than the one that cloister init was given", c.Certificate)
	}
	if now := uint64(time.Now().Unix()); now < cert.ValidAfter || now >= cert.ValidBefore {
		return nil, advice.Refuse(nextCertificate, "the certificate %s is not valid now", c.Certificate)
	}
	return certified{s, cert}, nil
}

func readCertificate(path string, key ssh.PublicKey) (*ssh.Certificate, error) {
	b, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	k, _, _, rest, err := ssh.ParseAuthorizedKey(b)
	cert, ok := k.(*ssh.Certificate)
	if err != nil || !ok || len(bytes.TrimSpace(rest)) > 0 {
		return nil, advice.Refuse("give the file that ssh-keygen -s wrote, …-cert.pub", "%s is no SSH certificate", path)
	}
	if !bytes.Equal(cert.Key.Marshal(), key.Marshal()) {
		return nil, advice.Refuse(nextCertificate, "the certificate %s is of another key, %s", path, signers.Fingerprint(cert))
	}
	return cert, nil
}

// certified signs as ssh-keygen -Y sign does with a certificate.
type certified struct {
	ssh.Signer
	certificate *ssh.Certificate
}

func (c certified) PublicKey() ssh.PublicKey { return c.certificate }

// Sign takes SHA-2 for RSA, which package sshsig sees to for plain keys alone.
func (c certified) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	if c.certificate.Key.Type() != ssh.KeyAlgoRSA {
		return c.Signer.Sign(rand, data)
	}
	s, ok := c.Signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the key cannot sign with SHA-2")
	}
	return s.SignWithAlgorithm(rand, data, ssh.KeyAlgoRSASHA512)
}
