// Package xts encrypts and decrypts runs of disk sectors as the kernel's
// dm-crypt does with the cipher aes-xts-plain64.
//
// The IV of a sector is its byte offset in units of 512 bytes, whatever the
// sector size: that is dm-crypt's plain64 without iv_large_sectors
// (Documentation/admin-guide/device-mapper/dm-crypt.rst). The package gives
// confidentiality only: changed ciphertext decrypts to garbage, so whoever
// needs to know reads through package verity first.
//
// The cipher below is golang.org/x/crypto/xts. A faster one has to replace
// only this package, and keeps x/crypto/xts as its oracle.
package xts

import (
	"crypto/aes"
	"fmt"

	"cloister/secret"

	"golang.org/x/crypto/xts"
)

// IVUnit is the number of bytes that plain64 counts as one sector.
const IVUnit = 512

// Cipher holds the expanded key. It is safe for concurrent use.
type Cipher struct{ c *xts.Cipher }

// New expands a key of 32 bytes (AES-128-XTS) or 64 bytes (AES-256-XTS).
// The expanded key lives in ordinary memory until it is collected.
func New(key secret.Bytes) (*Cipher, error) {
	if n := key.Len(); n != 32 && n != 64 {
		return nil, fmt.Errorf("expanding an AES-XTS key: %d bytes, want 32 or 64", n)
	}
	c, err := xts.NewCipher(aes.NewCipher, key.Reveal())
	if err != nil {
		return nil, fmt.Errorf("expanding an AES-XTS key: %w", err)
	}
	return &Cipher{c}, nil
}

// Encrypt encrypts src, whole sectors of sectorSize bytes, into dst; offset is
// the byte offset of src from the start of the encrypted segment. dst and src
// must be the same memory or not overlap. Lengths that are no whole sectors
// are a bug of the caller and panic.
func (c *Cipher) Encrypt(dst, src []byte, sectorSize int, offset int64) {
	each(dst, src, sectorSize, offset, c.c.Encrypt)
}

// Decrypt is the inverse of Encrypt.
func (c *Cipher) Decrypt(dst, src []byte, sectorSize int, offset int64) {
	each(dst, src, sectorSize, offset, c.c.Decrypt)
}

func each(dst, src []byte, sectorSize int, offset int64, do func(dst, src []byte, sector uint64)) {
	if sectorSize < IVUnit || len(src)%sectorSize != 0 || len(dst) < len(src) || offset < 0 || offset%int64(sectorSize) != 0 {
		panic(fmt.Sprintf("xts: %d bytes at %d in sectors of %d", len(src), offset, sectorSize))
	}
	for i := 0; i < len(src); i += sectorSize {
		do(dst[i:i+sectorSize], src[i:i+sectorSize], uint64(offset+int64(i))/IVUnit)
	}
}
