package integrity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"cloister/secret"
	"cloister/volume/xts"
)

// ErrAltered says that a sector is not what whoever has the key wrote there.
var ErrAltered = errors.New("the volume was altered: a sector does not match its authentication tag")

// A Reader reads the sectors of an authenticated volume. It is safe for
// concurrent use, through an Opener for each goroutine.
type Reader struct {
	area    io.ReaderAt
	layout  Layout
	cipher  *xts.Cipher
	mac     secret.Bytes
	journal map[int64]written // by byte of the volume
}

// NewReader reads from area, which begins where the superblock lies. What the
// journal of a volume that nobody closed holds, counts over what lies in place;
// the error wraps ErrAltered if it is not what whoever has the key left there. key
// has KeySize bytes and stays the caller's.
func NewReader(area io.ReaderAt, l Layout, key secret.Bytes) (*Reader, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("key of an authenticated volume: %d bytes, want %d", key.Len(), KeySize)
	}
	half := secret.Alloc(xtsKeySize)
	defer half.Wipe()
	copy(half.Reveal(), key.Reveal())
	c, err := xts.New(half)
	if err != nil {
		return nil, err
	}
	r := &Reader{area: area, layout: l, cipher: c, mac: secret.Alloc(macSize)}
	copy(r.mac.Reveal(), key.Reveal()[xtsKeySize:])
	if r.journal, err = r.readJournal(); err != nil {
		r.Wipe()
		return nil, err
	}
	return r, nil
}

// Wipe overwrites the keys. Nobody may be reading.
func (r *Reader) Wipe() {
	r.cipher.Wipe()
	r.mac.Wipe()
}

// Opener returns what one goroutine reads with.
func (r *Reader) Opener() *Opener {
	return &Opener{r: r, mac: NewMAC(r.mac.Reveal())}
}

// An Opener checks and decrypts sectors; it belongs to one goroutine.
type Opener struct {
	r    *Reader
	mac  MAC
	tags []byte
}

// Read fills buf, whole sectors, from byte off of the volume, a sector's
// beginning. The error is ErrAltered, with the sector, when one does not match
// its tag; buf then holds nothing that was not checked.
func (o *Opener) Read(buf []byte, off int64) error {
	l := o.r.layout
	if off < 0 || off%SectorSize != 0 || len(buf)%SectorSize != 0 || off > l.size-int64(len(buf)) {
		return fmt.Errorf("reading %d bytes at %d of an authenticated volume: outside, or no whole sectors", len(buf), off)
	}
	for len(buf) > 0 {
		n := contiguous(off, int64(len(buf)))
		if err := o.piece(buf[:n], off); err != nil {
			clear(buf)
			return err
		}
		buf, off = buf[n:], off+n
	}
	return nil
}

// piece reads sectors that lie together, as their tags then do.
func (o *Opener) piece(buf []byte, off int64) error {
	size := len(buf) / SectorSize * TagSize
	if cap(o.tags) < size {
		o.tags = make([]byte, size)
	}
	tags := o.tags[:size]
	if err := readFull(o.r.area, tags, o.r.layout.TagAt(off)); err != nil {
		return fmt.Errorf("reading the tags of sector %d: %w", off/SectorSize, err)
	}
	if err := readFull(o.r.area, buf, o.r.layout.SectorAt(off)); err != nil {
		return fmt.Errorf("reading sector %d: %w", off/SectorSize, err)
	}
	for ; len(buf) > 0; buf, tags, off = buf[SectorSize:], tags[TagSize:], off+SectorSize {
		sector, tag := buf[:SectorSize], tags[:TagSize]
		if w, ok := o.r.journal[off]; ok {
			copy(sector, w.ciphertext)
			tag = w.tag
		}
		sum, iv := tag[:macSize], tag[macSize:]
		if !hmac.Equal(o.mac.Of(off, iv, sector), sum) {
			return fmt.Errorf("sector %d: %w", off/SectorSize, ErrAltered)
		}
		o.r.cipher.DecryptSector(sector, sector, iv)
	}
	return nil
}

// Unwritten tells how many sectors the journal holds.
func (r *Reader) Unwritten() int { return len(r.journal) }

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A MAC computes what dm-crypt stores in a tag. It belongs to one goroutine.
type MAC struct {
	hash hash.Hash
	sum  *[macSize]byte
}

// NewMAC is a MAC under a key of 32 bytes.
func NewMAC(key []byte) MAC { return MAC{hmac.New(sha256.New, key), new([macSize]byte)} }

// Of is the HMAC of the ciphertext of the sector at byte off of the volume: over
// the sector's number in units of 512 bytes, little-endian in 8 bytes, the IV
// and the ciphertext (crypt_convert_block_aead in dm-crypt.c; authenc encrypts,
// then authenticates). It holds until the next call.
func (m MAC) Of(off int64, iv, ciphertext []byte) []byte {
	m.hash.Reset()
	m.hash.Write(binary.LittleEndian.AppendUint64(m.sum[:0], uint64(off/unit)))
	m.hash.Write(iv)
	m.hash.Write(ciphertext)
	return m.hash.Sum(m.sum[:0])
}
