package sealed

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"cloister/secret"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	// JobKeySize is the length of a job key, in bytes.
	JobKeySize = 32

	// KeyslotKeySize is the length of a volume's keyslot key, in bytes.
	KeyslotKeySize = 32

	// MaxVolumeKey bounds a volume key: 64 bytes for aes-xts-plain64 with
	// AES-256, 96 with a key for HMAC-SHA256 besides.
	MaxVolumeKey = 128
	minVolumeKey = 32

	// MaxFiles is the number of a job's secret files, MaxFile the size of them
	// together, in bytes: a PEM key of RSA-4096 has 3,200.
	MaxFiles = 16
	MaxFile  = 64 << 10

	// MaxSecrets bounds the encrypted secrets of a manifest, in bytes: the
	// largest files take 86 KiB in base64, the keys of MaxVolumes 10 KiB.
	MaxSecrets = 128 << 10

	// SecretPlace is the directory in the job view that holds the secret files.
	SecretPlace = "/run/cloister/secrets"

	secretsInfo = "cloister/1/secrets"
)

// A VolumeSecret holds the keys of one volume.
type VolumeSecret struct {
	VolumeKey  secret.Bytes
	KeyslotKey secret.Bytes // empty unless the node makes the volume
}

// Secrets are what a manifest holds encrypted under the job key: the keys of
// its volumes and the contents of its secret files, in the manifest's order.
type Secrets struct {
	Volumes []VolumeSecret
	Files   []secret.Bytes
}

// Wipe overwrites both keys.
func (v VolumeSecret) Wipe() {
	v.VolumeKey.Wipe()
	v.KeyslotKey.Wipe()
}

// Wipe overwrites everything.
func (s *Secrets) Wipe() {
	s.WipeKeys()
	for _, f := range s.Files {
		f.Wipe()
	}
}

// WipeKeys overwrites the keys of volumes.
func (s *Secrets) WipeKeys() {
	for _, v := range s.Volumes {
		v.Wipe()
	}
}

// SealSecrets encrypts the secrets of the job with that id: ChaCha20-Poly1305
// with the key HKDF-SHA256(job key, salt = job id, info
// "cloister/1/secrets"), the job id as additional data, and a nonce of zeros,
// because a job key is fresh at each seal and encrypts nothing else. The job id
// enters as its 32 hexadecimal digits.
func SealSecrets(s *Secrets, jobKey secret.Bytes, job string) ([]byte, error) {
	plain, err := s.encode()
	if err != nil {
		return nil, fmt.Errorf("sealing the secrets: %w", err)
	}
	defer plain.Wipe()
	aead, err := secretsCipher(jobKey, job)
	if err != nil {
		return nil, fmt.Errorf("sealing the secrets: %w", err)
	}
	out := aead.Seal(nil, make([]byte, aead.NonceSize()), plain.Reveal(), []byte(job))
	if len(out) > MaxSecrets {
		return nil, fmt.Errorf("sealing the secrets: %d bytes, at most %d are served", len(out), MaxSecrets)
	}
	return out, nil
}

// OpenSecrets decrypts what SealSecrets made. Errors are *Refusal of kind
// ErrSecrets and quote nothing.
func OpenSecrets(sealed []byte, jobKey secret.Bytes, job string) (*Secrets, error) {
	bad := refuse(ErrSecrets, nextSealAgain, "the volume keys of this job do not open with the key from the KMS")
	if len(sealed) > MaxSecrets {
		return nil, bad
	}
	aead, err := secretsCipher(jobKey, job)
	if err != nil {
		return nil, bad
	}
	buf := secret.Alloc(len(sealed))
	defer buf.Wipe()
	plain, err := aead.Open(buf.Reveal()[:0], make([]byte, aead.NonceSize()), sealed, []byte(job))
	if err != nil {
		return nil, bad
	}
	s, err := decodeSecrets(plain)
	if err != nil {
		return nil, bad
	}
	return s, nil
}

// OpenSecrets decrypts the manifest's secrets. It refuses those that are not one
// for each volume and each file, with the errors of OpenSecrets.
func (m *Manifest) OpenSecrets(jobKey secret.Bytes) (*Secrets, error) {
	s, err := OpenSecrets(m.Secrets, jobKey, m.Job)
	if err != nil {
		return nil, err
	}
	if len(s.Volumes) != len(m.Volumes) || len(s.Files) != len(m.Files) {
		s.Wipe()
		return nil, refuse(ErrSecrets, nextSealAgain, "the secrets of this job are those of %d volumes and %d files, it names %d and %d", len(s.Volumes), len(s.Files), len(m.Volumes), len(m.Files))
	}
	return s, nil
}

func secretsCipher(jobKey secret.Bytes, job string) (cipher.AEAD, error) {
	if jobKey.Len() != JobKeySize {
		return nil, fmt.Errorf("a job key of %d bytes, want %d", jobKey.Len(), JobKeySize)
	}
	if err := CheckJobID(job); err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, jobKey.Reveal(), []byte(job), secretsInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving the key: %w", err)
	}
	defer clear(key)
	return chacha20poly1305.New(key)
}
