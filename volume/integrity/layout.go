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
// Writes go through dm-integrity's journal, so that after a power cut a sector
// and its tag fit each other. What an unclosed volume's journal holds counts over
// the sectors in place (Reader). The journal has no key of its own and needs none:
// each of its entries carries the sector's tag, without which it is ErrAltered.
//
// The geometry follows from the volume's size alone. The superblock, which says
// the same to the kernel, is written and never read.
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
	macSize           = 32
	xtsKeySize        = 64
	unit              = 512 // dm-integrity's own sectors
	log2Interleave    = 15

	// SuperblockSize is the length of the area's first part, in bytes: SB_SECTORS.
	SuperblockSize = 4096

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

	sectionSectors = journalBlock + entriesPerSection*SectorSize/unit
	sectionSize    = sectionSectors * unit

	// The journal takes a 64th of the volume. A smaller one is written back more
	// often, a larger one must be read at each opening and cleared at each closing;
	// what more than 8 MiB gain is in docs/volumes.md.
	journalShare             = 64
	minSections, maxSections = 4, 62

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
	for sections := int64(minSections); sections <= maxSections; sections++ {
		data := n - SuperblockSize - sections*sectionSize
		areas := (data + areaGap - 1) / areaGap
		if l, err := NewLayout(data - areas*runSize); err == nil && l.AreaSize() == n {
			return l, nil
		}
	}
	return Layout{}, fmt.Errorf("no authenticated volume takes %d bytes", n)
}

// Size is the volume's length in bytes.
func (l Layout) Size() int64 { return l.size }

// JournalSize is the length of the journal in bytes, whole sections.
func (l Layout) JournalSize() int64 { return l.sections() * sectionSize }

func (l Layout) sections() int64 {
	return min(max(l.size/journalShare/sectionSize, minSections), maxSections)
}

// headSize is where the first tags lie.
func (l Layout) headSize() int64 { return SuperblockSize + l.JournalSize() }

// AreaSize is the length in bytes of superblock, journal, tags and sectors.
func (l Layout) AreaSize() int64 {
	areas := (l.size + InterleaveSectors*unit - 1) / (InterleaveSectors * unit)
	return l.headSize() + areas*runSize + l.size
}

// SectorAt is where the sector at byte off of the volume lies in the area.
func (l Layout) SectorAt(off int64) int64 {
	area, within := off/(InterleaveSectors*unit), off%(InterleaveSectors*unit)
	return l.headSize() + area*areaGap + runSize + within
}

// TagAt is where the tag of the sector at byte off of the volume lies.
func (l Layout) TagAt(off int64) int64 {
	area, within := off/(InterleaveSectors*unit), off%(InterleaveSectors*unit)
	return l.headSize() + area*areaGap + within/SectorSize*TagSize
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

	log2SectorsPerBlock = 3
)

// Superblock returns the area's first bytes as the kernel makes them for a new
// volume. Who opens one puts them in place first, so that it does not matter what
// the file said.
func (l Layout) Superblock() []byte {
	le := binary.LittleEndian
	b := make([]byte, SuperblockSize)
	copy(b, superMagic)
	b[8] = superVersion
	b[9] = log2Interleave
	le.PutUint16(b[10:], TagSize)
	le.PutUint32(b[12:], uint32(l.sections()))
	le.PutUint64(b[16:], uint64(l.size/unit))
	le.PutUint32(b[24:], flagFixedPadding)
	b[28] = log2SectorsPerBlock
	b[29] = l.bitmapBit()
	return b
}

// Head returns the superblock and the empty journal of a new volume, as the
// kernel makes them.
func (l Layout) Head() []byte {
	b := append(make([]byte, 0, l.headSize()), l.Superblock()...)
	for i := range l.sections() {
		b = append(b, emptySection(int(i), 0)...)
	}
	return b
}

// bitmapBit is a field of modes that are not used here; the kernel fills it in
// all the same: the journal's bits must suffice for the whole volume.
func (l Layout) bitmapBit() byte {
	bits := l.JournalSize() * 8
	sectors, log2 := l.size/unit, bitmapSectors
	for bits < (sectors+1<<log2-1)>>log2 {
		log2++
	}
	return byte(log2 - log2SectorsPerBlock)
}
