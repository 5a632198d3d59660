// Package integrity knows authenticated volumes: what the kernel's dm-integrity
// stores below dm-crypt with the cipher
// capi:authenc(hmac(sha256),xts(aes))-random, as LUKS2 volumes have it that
// cryptsetup makes with --integrity hmac-sha256.
//
// Every sector of 4096 bytes has a tag of 48: the HMAC-SHA256 of its number, its
// IV and its ciphertext, and the IV, which is random. A sector that was altered,
// moved or never written is ErrAltered. One that was put back to what it once
// was, with its tag, is not noticed here.
//
// The geometry follows from the volume's size alone. Nothing of the area is
// parsed: the superblock and the journal, which say the same to the kernel, are
// written by Head and never read.
//
// The sources are drivers/md/dm-integrity.c and dm-crypt.c of Linux 6.12 and
// Documentation/admin-guide/device-mapper/dm-integrity.rst.
package integrity

import (
	"encoding/binary"
	"fmt"

	"cloister/volume/xts"
)

// The one geometry of Cloister's volumes. Changing any of it makes another
// format.
const (
	// SectorSize is the unit of encryption and authentication, in bytes.
	SectorSize = 4096
	// TagSize is what is stored for each sector besides its ciphertext, in bytes.
	TagSize = macSize + xts.IVSize
	// KeySize is the length of a volume key in bytes: 64 for AES-256-XTS, then
	// 32 for HMAC-SHA256, in the order of dm-crypt's tables.
	KeySize = xtsKeySize + macSize

	// InterleaveSectors is how much data, in units of 512 bytes, lies between
	// two runs of tags: dm-integrity's default, 16 MiB.
	InterleaveSectors = 1 << log2Interleave
	// JournalSectors is the least journal, in units of 512 bytes. It stays empty:
	// writes are direct.
	JournalSectors = entriesPerSection*SectorSize/unit + journalBlock

	macSize        = 32
	xtsKeySize     = 64
	unit           = 512 // dm-integrity's own sectors
	log2Interleave = 15

	superSize = 4096 // SB_SECTORS
	// A run of tags is rounded up to METADATA_PADDING_SECTORS, 4096 bytes, which
	// with this tag size it is anyway.
	runSize = InterleaveSectors * unit / SectorSize * TagSize
	areaGap = InterleaveSectors*unit + runSize

	// A journal section: a block of 8 sectors of entries, each with its share of
	// commit ids and tag, and a data sector for each entry.
	journalBlock      = 8
	entrySize         = 8 + 8*SectorSize/unit + TagSize
	entriesPerSector  = (unit - 8) / entrySize
	entriesPerSection = entriesPerSector * journalBlock

	headSize = superSize + JournalSectors*unit

	// MaxSize is the largest volume, 1 PiB, so that no sum overflows.
	MaxSize = 1 << 50
)

// A Layout says where the sectors of a volume and their tags lie in the area
// that dm-integrity has.
type Layout struct{ size int64 }

// NewLayout is the layout of a volume of size bytes: whole sectors, at least
// one, at most MaxSize.
func NewLayout(size int64) (Layout, error) {
	if size < SectorSize || size > MaxSize || size%SectorSize != 0 {
		return Layout{}, fmt.Errorf("authenticated volume of %d bytes: out of bounds or no whole sectors", size)
	}
	return Layout{size}, nil
}

// OfArea is the layout whose area has n bytes.
func OfArea(n int64) (Layout, error) {
	n -= headSize
	areas := (n + areaGap - 1) / areaGap
	l, err := NewLayout(n - areas*runSize)
	if err == nil && l.AreaSize() != n+headSize {
		err = fmt.Errorf("no authenticated volume takes %d bytes", n+headSize)
	}
	return l, err
}

// Size is the volume's length in bytes.
func (l Layout) Size() int64 { return l.size }

// AreaSize is the length in bytes of superblock, journal, tags and sectors.
func (l Layout) AreaSize() int64 {
	areas := (l.size + InterleaveSectors*unit - 1) / (InterleaveSectors * unit)
	return headSize + areas*runSize + l.size
}

// SectorAt is where the sector at byte off of the volume lies in the area.
func (l Layout) SectorAt(off int64) int64 {
	area, within := off/(InterleaveSectors*unit), off%(InterleaveSectors*unit)
	return headSize + area*areaGap + runSize + within
}

// TagAt is where the tag of the sector at byte off of the volume lies.
func (l Layout) TagAt(off int64) int64 {
	area, within := off/(InterleaveSectors*unit), off%(InterleaveSectors*unit)
	return headSize + area*areaGap + within/SectorSize*TagSize
}

// contiguous is how many of n bytes from off on lie in one piece.
func contiguous(off, n int64) int64 {
	return min(n, InterleaveSectors*unit-off%(InterleaveSectors*unit))
}

const (
	superMagic       = "integrt\x00"
	superVersion     = 4 // SB_VERSION_4: the first with fixed padding
	flagFixedPadding = 0x8
	bitmapSectors    = 15 // log2 of DEFAULT_SECTORS_PER_BITMAP_BIT
	// commitID is the first of those that a journal without a key has.
	commitID = 0x1111111111111111
	unused   = 0xFFFFFFFF // sector_hi of an entry that holds nothing
)

// Head returns the area's first bytes, superblock and empty journal, as the
// kernel makes them for a new volume. Who opens a volume puts them in place
// first, so that it does not matter what the file said: with direct writes the
// journal holds nothing.
func (l Layout) Head() []byte {
	le := binary.LittleEndian
	b := make([]byte, headSize)
	copy(b, superMagic)
	b[8] = superVersion
	b[9] = log2Interleave
	le.PutUint16(b[10:], TagSize)
	le.PutUint32(b[12:], 1) // journal sections
	le.PutUint64(b[16:], uint64(l.size/unit))
	le.PutUint32(b[24:], flagFixedPadding)
	b[28] = log2SectorsPerBlock
	b[29] = l.bitmapBit()
	for j := range JournalSectors {
		s := b[superSize+j*unit:][:unit]
		le.PutUint64(s[unit-8:], commitID^uint64(j)) // section 0
		if j < journalBlock {
			for e := range entriesPerSector {
				le.PutUint32(s[e*entrySize+4:], unused)
			}
		}
	}
	return b
}

const log2SectorsPerBlock = 3

// bitmapBit is a field of modes that are not used here; the kernel fills it in
// all the same: the journal's bits must suffice for the whole volume.
func (l Layout) bitmapBit() byte {
	const bits = JournalSectors * unit * 8
	sectors, log2 := l.size/unit, bitmapSectors
	for bits < (sectors+1<<log2-1)>>log2 {
		log2++
	}
	return byte(log2 - log2SectorsPerBlock)
}
