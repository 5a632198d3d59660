// Package integritytest writes authenticated volumes without a kernel, for
// tests.
package integritytest

import (
	"crypto/rand"
	"io"

	"cloister/secret"
	"cloister/volume/integrity"
	"cloister/volume/xts"
)

// Write writes whole sectors of plaintext at byte off of the volume whose area
// begins at byte at of f, as dm-crypt and dm-integrity would.
func Write(f io.WriterAt, at int64, l integrity.Layout, key secret.Bytes, plain []byte, off int64) error {
	half := secret.Alloc(64)
	copy(half.Reveal(), key.Reveal())
	c, err := xts.New(half)
	if err != nil {
		return err
	}
	mac := integrity.NewMAC(key.Reveal()[64:])
	for ; len(plain) > 0; plain, off = plain[integrity.SectorSize:], off+integrity.SectorSize {
		tag, sector := make([]byte, integrity.TagSize), make([]byte, integrity.SectorSize)
		iv := tag[integrity.TagSize-xts.IVSize:]
		rand.Read(iv)
		c.EncryptSector(sector, plain[:integrity.SectorSize], iv)
		copy(tag, mac.Of(off, iv, sector))
		if _, err := f.WriteAt(tag, at+l.TagAt(off)); err != nil {
			return err
		}
		if _, err := f.WriteAt(sector, at+l.SectorAt(off)); err != nil {
			return err
		}
	}
	return nil
}
