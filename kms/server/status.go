package server

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"time"
)

// Status is what an administrator may know of a state directory.
type Status struct {
	Addresses     []string
	CAPEM         []byte
	CAFingerprint string // SHA256: and base64 of the DER certificate's digest
	CAExpires     time.Time
	Users         []User
}

// ReadStatus reads a state directory without the database, so it works while
// a server runs.
func (s State) ReadStatus() (*Status, error) {
	c, _, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("reading the KMS's state: %w", err)
	}
	ca, err := loadCA(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("reading the KMS's state: %w", err)
	}
	users, err := s.Users()
	if err != nil {
		return nil, err
	}
	return &Status{
		Addresses:     c.Addresses,
		CAPEM:         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}),
		CAFingerprint: fingerprint(ca),
		CAExpires:     ca.NotAfter,
		Users:         users,
	}, nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Outstanding counts each user's unused tokens. It needs the database, which
// a running server has locked.
func (s State) Outstanding() (map[string]int, error) {
	_, key, err := s.open()
	if err != nil {
		return nil, err
	}
	st, err := openStore(s.Dir, key)
	if err != nil {
		return nil, err
	}
	defer st.close()
	return st.outstanding(time.Now())
}
