// Package xts encrypts and decrypts runs of disk sectors as the kernel's
// dm-crypt does with the cipher aes-xts-plain64, and single sectors as it does
// with aes-xts-random.
//
// The IV of a sector is its byte offset in units of 512 bytes, whatever the
// sector size: that is dm-crypt's plain64 without iv_large_sectors
// (Documentation/admin-guide/device-mapper/dm-crypt.rst). The package gives
// confidentiality only: changed ciphertext decrypts to garbage, so whoever
// needs to know reads through package verity first.
//
// Where the processor has AES instructions, assembly keeps many blocks in
// flight, which golang.org/x/crypto/xts does not, one block after the other.
// That package serves all other processors and the build tag purego where IVs
// are counted, and the tests hold everything else against it.
package xts

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"
	"unsafe"

	"cloister/secret"
)

//go:generate go run -C ../asm ./xts -out ../xts/block_amd64.s -stubs ../xts/block_amd64.go -pkg xts

// IVUnit is the number of bytes that plain64 counts as one sector. Sectors are
// whole units.
const IVUnit = 512

// Cipher holds the expanded key. It is safe for concurrent use.
type Cipher struct{ sectors sectorCipher }

// A sectorCipher crypts one sector; iv is its IV as two little-endian numbers.
type sectorCipher interface {
	encrypt(dst, src []byte, iv [2]uint64)
	decrypt(dst, src []byte, iv [2]uint64)
}

// IVSize is the length in bytes of an IV that is not counted but given.
const IVSize = aes.BlockSize

// New expands a key of 32 bytes (AES-128-XTS) or 64 bytes (AES-256-XTS).
func New(key secret.Bytes) (*Cipher, error) {
	if n := key.Len(); n != 32 && n != 64 {
		return nil, fmt.Errorf("expanding an AES-XTS key: %d bytes, want 32 or 64", n)
	}
	if s := accelerated(key.Reveal()); s != nil {
		return &Cipher{s}, nil
	}
	s, err := newPortable(key.Reveal())
	if err != nil {
		return nil, fmt.Errorf("expanding an AES-XTS key: %w", err)
	}
	return &Cipher{s}, nil
}

// Wipe overwrites the expanded key; the Cipher panics when it is used again.
// Nobody may be using it. Without AES instructions the expanded key is not
// within reach and stays in memory until it is collected.
func (c *Cipher) Wipe() {
	if s, ok := c.sectors.(interface{ wipe() }); ok {
		s.wipe()
	}
	c.sectors = nil
}

// Encrypt encrypts src, whole sectors of sectorSize bytes, into dst; offset is
// the byte offset of src from the start of the encrypted segment. dst and src
// must be the same memory or not overlap. Lengths that are no whole sectors
// are a bug of the caller and panic.
func (c *Cipher) Encrypt(dst, src []byte, sectorSize int, offset int64) {
	c.check(dst, src, sectorSize, offset)
	for i := 0; i < len(src); i += sectorSize {
		c.sectors.encrypt(dst[i:i+sectorSize], src[i:i+sectorSize], [2]uint64{uint64(offset+int64(i)) / IVUnit})
	}
}

// Decrypt is the inverse of Encrypt.
func (c *Cipher) Decrypt(dst, src []byte, sectorSize int, offset int64) {
	c.check(dst, src, sectorSize, offset)
	for i := 0; i < len(src); i += sectorSize {
		c.sectors.decrypt(dst[i:i+sectorSize], src[i:i+sectorSize], [2]uint64{uint64(offset+int64(i)) / IVUnit})
	}
}

// EncryptSector encrypts one sector under an IV of IVSize bytes that the caller
// chose, as dm-crypt does with the IV generator "random". dst and src are as for
// Encrypt.
func (c *Cipher) EncryptSector(dst, src, iv []byte) {
	c.check(dst, src, len(src), 0)
	c.sectors.encrypt(dst[:len(src)], src, numbers(iv))
}

// DecryptSector is the inverse of EncryptSector.
func (c *Cipher) DecryptSector(dst, src, iv []byte) {
	c.check(dst, src, len(src), 0)
	c.sectors.decrypt(dst[:len(src)], src, numbers(iv))
}

func numbers(iv []byte) [2]uint64 {
	if len(iv) != IVSize {
		panic(fmt.Sprintf("xts: IV of %d bytes", len(iv)))
	}
	return [2]uint64{binary.LittleEndian.Uint64(iv), binary.LittleEndian.Uint64(iv[8:])}
}

func (c *Cipher) check(dst, src []byte, sectorSize int, offset int64) {
	if c.sectors == nil {
		panic("xts: used after Wipe")
	}
	if sectorSize <= 0 || sectorSize%IVUnit != 0 || len(src)%sectorSize != 0 || len(dst) < len(src) || offset < 0 || offset%int64(sectorSize) != 0 {
		panic(fmt.Sprintf("xts: %d bytes at %d in sectors of %d", len(src), offset, sectorSize))
	}
	d, s, n := uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(unsafe.Pointer(unsafe.SliceData(src))), uintptr(len(src))
	if d != s && d < s+n && s < d+n {
		panic("xts: buffers overlap")
	}
}
