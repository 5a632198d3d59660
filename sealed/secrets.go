package sealed

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
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

	// MaxSecrets bounds the encrypted secrets of a manifest, in bytes.
	MaxSecrets = 32 << 10

	secretsInfo = "cloister/1/secrets"
)

// A VolumeSecret holds the keys of one volume.
type VolumeSecret struct {
	VolumeKey  secret.Bytes
	KeyslotKey secret.Bytes // empty unless the node makes the volume
}

// Secrets are what a manifest holds encrypted under the job key: the keys of
// its volumes, in the manifest's order.
type Secrets struct{ Volumes []VolumeSecret }

// Wipe overwrites both keys.
func (v VolumeSecret) Wipe() {
	v.VolumeKey.Wipe()
	v.KeyslotKey.Wipe()
}

// Wipe overwrites every key.
func (s *Secrets) Wipe() {
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

// The plaintext is JSON that only these pieces make up, so that it is written
// and read without the copies of a JSON package, and has one encoding.
const (
	secretsHead  = `{"volumes":[`
	secretsEntry = `{"volume_key":"`
	secretsNext  = `","keyslot_key":"`
	secretsEnd   = `"}`
	secretsTail  = `]}`
)

// secretsSize is the least length of the sealed secrets of n volumes.
func secretsSize(n int) int {
	const key = (minVolumeKey + 2) / 3 * 4
	return len(secretsHead) + n*(len(secretsEntry)+key+len(secretsNext)+len(secretsEnd)) + max(0, n-1) + len(secretsTail) + chacha20poly1305.Overhead
}

func (s *Secrets) encode() (secret.Bytes, error) {
	if len(s.Volumes) > MaxVolumes {
		return secret.Bytes{}, fmt.Errorf("%d volumes, at most %d are served", len(s.Volumes), MaxVolumes)
	}
	perVolume := len(secretsEntry) + len(secretsNext) + len(secretsEnd) + 1 + (MaxVolumeKey+KeyslotKeySize+4)/3*4 + 4
	whole := secret.Alloc(len(secretsHead) + len(secretsTail) + len(s.Volumes)*perVolume)
	b := append(whole.Reveal()[:0], secretsHead...)
	for i, v := range s.Volumes {
		if err := v.check(); err != nil {
			whole.Wipe()
			return secret.Bytes{}, fmt.Errorf("volume %d: %w", i+1, err)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, secretsEntry...)
		b = appendEncoded(b, v.VolumeKey)
		b = append(b, secretsNext...)
		b = appendEncoded(b, v.KeyslotKey)
		b = append(b, secretsEnd...)
	}
	b = append(b, secretsTail...)
	out := secret.Alloc(len(b))
	copy(out.Reveal(), b)
	whole.Wipe()
	return out, nil
}

func appendEncoded(b []byte, k secret.Bytes) []byte {
	e := k.Encode()
	defer e.Wipe()
	return append(b, e.Reveal()...)
}

func (v *VolumeSecret) check() error {
	if n := v.VolumeKey.Len(); n < minVolumeKey || n > MaxVolumeKey {
		return fmt.Errorf("a volume key of %d bytes", n)
	}
	if n := v.KeyslotKey.Len(); n != 0 && n != KeyslotKeySize {
		return fmt.Errorf("a keyslot key of %d bytes", n)
	}
	return nil
}

func decodeSecrets(b []byte) (*Secrets, error) {
	s := new(Secrets)
	r := reader{rest: b}
	r.skip(secretsHead)
	for r.err == nil && !bytes.Equal(r.rest, []byte(secretsTail)) {
		if len(s.Volumes) == MaxVolumes {
			r.err = errors.New("too many volumes")
			break
		}
		if len(s.Volumes) > 0 {
			r.skip(",")
		}
		var v VolumeSecret
		r.skip(secretsEntry)
		v.VolumeKey = r.key()
		r.skip(secretsNext)
		v.KeyslotKey = r.key()
		r.skip(secretsEnd)
		s.Volumes = append(s.Volumes, v)
		if r.err == nil {
			r.err = v.check()
		}
	}
	if r.err != nil {
		s.Wipe()
		return nil, r.err
	}
	return s, nil
}

// A reader takes fixed pieces and keys off the front; after an error it does
// nothing more.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) skip(piece string) {
	rest, ok := bytes.CutPrefix(r.rest, []byte(piece))
	if !ok && r.err == nil {
		r.err = errors.New("unexpected form")
	}
	r.rest = rest
}

func (r *reader) key() secret.Bytes {
	n := bytes.IndexByte(r.rest, '"')
	if r.err != nil || n < 0 {
		r.err = errors.New("unexpected form")
		return secret.Bytes{}
	}
	k, err := secret.Decode(r.rest[:n]) // wipes what it read
	if err != nil {
		r.err = err
	}
	r.rest = r.rest[n:]
	return k
}
