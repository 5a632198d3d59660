package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"time"
)

const (
	caCertFile = "ca.pem"
	caKeyFile  = "ca-key.pem"

	caLife = 10 * 365 * 24 * time.Hour
	// A server certificate lives in memory only and is replaced after two
	// thirds of its life, so nobody has to renew it.
	certLife  = 30 * 24 * time.Hour
	certRenew = 20 * 24 * time.Hour
	// backdate tolerates clients whose clock is slow.
	backdate = 24 * time.Hour
)

func newCA(name string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the CA's key: %w", err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "cloister-kms CA of " + name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the CA's certificate: %w", err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the CA's key: %w", err)
	}
	defer clear(pk)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), nil
}

// serial is random, as RFC 5280, 4.1.2.2 asks: positive, at most 20 bytes.
func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	b[0] |= 0x40
	return new(big.Int).SetBytes(b)
}

// issuer makes the server's own certificate from the CA in the state
// directory.
type issuer struct {
	ca        *x509.Certificate
	key       *ecdsa.PrivateKey
	addresses []string
	now       func() time.Time

	mu     sync.Mutex
	leaf   *tls.Certificate
	issued time.Time
}

func loadIssuer(dir string, state *stateKey, addresses []string, now func() time.Time) (*issuer, error) {
	ca, err := loadCA(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, caKeyFile)
	sealed, err := readLimited(path, maxConfig)
	if err != nil {
		return nil, err
	}
	b, err := state.open(caKeyFile, sealed)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading %s: not PEM", path)
	}
	defer clear(block.Bytes)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: not a PKCS #8 key", path)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, fmt.Errorf("reading %s: not the key of %s", path, caCertFile)
	}
	is := &issuer{ca: ca, key: key, addresses: addresses, now: now}
	if _, err := is.certificate(nil); err != nil {
		return nil, err
	}
	return is, nil
}

func loadCA(dir string) (*x509.Certificate, error) {
	path := filepath.Join(dir, caCertFile)
	b, err := readLimited(path, maxConfig)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("reading %s: no certificate in it", path)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return ca, nil
}

// certificate is for tls.Config.GetCertificate.
func (is *issuer) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	is.mu.Lock()
	defer is.mu.Unlock()
	now := is.now()
	if is.leaf != nil && now.Sub(is.issued).Abs() < certRenew {
		return is.leaf, nil
	}
	if now.After(is.ca.NotAfter) {
		return nil, errors.New("issuing the server's certificate: the CA has expired; make a new KMS and a new site file")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: is.addresses[0]},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range is.addresses {
		if ip := net.ParseIP(a); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, a)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, is.ca, key.Public(), is.key)
	if err != nil {
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	is.leaf, is.issued = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, now
	return is.leaf, nil
}
