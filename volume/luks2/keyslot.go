package luks2

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"cloister/secret"
	"cloister/volume/xts"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/pbkdf2"
)

func hashByName(name string) (func() hash.Hash, error) {
	switch name {
	case "sha256":
		return sha256.New, nil
	case "sha512":
		return sha512.New, nil
	}
	return nil, fmt.Errorf("hash %.32q is not supported: sha256 and sha512 are", name)
}

// newKeyslot describes a keyslot for a volume key of keySize bytes whose area
// begins at offset, as cryptsetup makes them for aes-xts-plain64.
func newKeyslot(keySize int, offset int64, k kdf) keyslot {
	return keyslot{
		Type: "luks2", KeySize: keySize,
		AF:   af{Type: "luks1", Stripes: afStripes, Hash: "sha256"},
		Area: area{Type: "raw", Offset: u64(offset), Size: u64(roundUp(keySize*afStripes, areaAlign)), Encryption: cipherName, KeySize: 64},
		KDF:  k,
	}
}

// derive runs the key derivation, whose cost validate has bounded.
func (k kdf) derive(passphrase secret.Bytes, size int) (secret.Bytes, error) {
	switch k.Type {
	case "argon2id":
		return secret.New(argon2.IDKey(passphrase.Reveal(), k.Salt, uint32(k.Time), uint32(k.Memory), uint8(k.CPUs), uint32(size))), nil
	case "argon2i":
		return secret.New(argon2.Key(passphrase.Reveal(), k.Salt, uint32(k.Time), uint32(k.Memory), uint8(k.CPUs), uint32(size))), nil
	}
	h, err := hashByName(k.Hash)
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.New(pbkdf2.Key(passphrase.Reveal(), k.Salt, int(k.Iterations), size, h)), nil
}

// open decrypts the keyslot's area under the passphrase. A wrong passphrase
// gives a wrong key, which only the digest can tell.
func (k keyslot) open(r io.ReaderAt, passphrase secret.Bytes) (secret.Bytes, error) {
	split := secret.Alloc(roundUp(k.KeySize*afStripes, areaSectorSize))
	defer split.Wipe()
	if _, err := io.ReadFull(io.NewSectionReader(r, int64(k.Area.Offset), int64(split.Len())), split.Reveal()); err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the keyslot's area: %w", err)
	}
	key, err := k.KDF.derive(passphrase, k.Area.KeySize)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer key.Wipe()
	c, err := xts.New(key)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer c.Wipe()
	c.Decrypt(split.Reveal(), split.Reveal(), areaSectorSize, 0)
	h, err := hashByName(k.AF.Hash)
	if err != nil {
		return secret.Bytes{}, err
	}
	return afMerge(split.Reveal()[:k.KeySize*afStripes], k.KeySize, h), nil
}

// seal is the inverse of open: it returns the bytes of the keyslot's area.
func (k keyslot) seal(rand io.Reader, volumeKey, passphrase secret.Bytes) ([]byte, error) {
	h, err := hashByName(k.AF.Hash)
	if err != nil {
		return nil, err
	}
	out := make([]byte, int64(k.Area.Size))
	split := out[:k.KeySize*afStripes]
	if err := afSplit(rand, split, volumeKey.Reveal(), h); err != nil {
		return nil, err
	}
	key, err := k.KDF.derive(passphrase, k.Area.KeySize)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	c, err := xts.New(key)
	if err != nil {
		return nil, err
	}
	defer c.Wipe()
	whole := out[:roundUp(len(split), areaSectorSize)]
	c.Encrypt(whole, whole, areaSectorSize, 0)
	return out, nil
}

// matches reports whether key is the one that the digest was made of.
func (d digest) matches(key secret.Bytes) (bool, error) {
	h, err := hashByName(d.Hash)
	if err != nil {
		return false, err
	}
	got := pbkdf2.Key(key.Reveal(), d.Salt, int(d.Iterations), len(d.Digest), h)
	return subtle.ConstantTimeCompare(got, d.Digest) == 1, nil
}

// afSplit spreads key over split so that losing any one stripe loses the key
// (anti-forensic splitter, LUKS1 specification 1.2.3, section 2.4).
func afSplit(rand io.Reader, split, key []byte, h func() hash.Hash) error {
	n := len(key)
	last := len(split) - n
	if _, err := io.ReadFull(rand, split[:last]); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	d := make([]byte, n)
	defer clear(d)
	for i := 0; i < last; i += n {
		subtle.XORBytes(d, d, split[i:i+n])
		diffuse(d, h)
	}
	subtle.XORBytes(split[last:], d, key)
	return nil
}

func afMerge(split []byte, n int, h func() hash.Hash) secret.Bytes {
	key := secret.Alloc(n)
	d := key.Reveal()
	last := len(split) - n
	for i := 0; i < last; i += n {
		subtle.XORBytes(d, d, split[i:i+n])
		diffuse(d, h)
	}
	subtle.XORBytes(d, d, split[last:])
	return key
}

// diffuse replaces each digest-sized piece of b by its hash with its index.
func diffuse(b []byte, h func() hash.Hash) {
	sum := h()
	size := sum.Size()
	var index [4]byte
	for i := 0; i*size < len(b); i++ {
		piece := b[i*size : min((i+1)*size, len(b))]
		binary.BigEndian.PutUint32(index[:], uint32(i))
		sum.Reset()
		sum.Write(index[:])
		sum.Write(piece)
		copy(piece, sum.Sum(nil))
	}
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
