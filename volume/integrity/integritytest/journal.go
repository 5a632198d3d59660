package integritytest

import (
	"encoding/binary"

	"cloister/secret"
	"cloister/volume/integrity"
)

// The shape of dm-integrity's journal, said once more: what package integrity
// reads is written here by other code.
const (
	block, sectors = 512, 264
	entries        = 32
	sectionSize    = sectors * block
)

// A Journal writes dm-integrity's journal as the kernel does: section by section
// around the ring.
type Journal struct {
	area      []byte // of a whole volume
	layout    integrity.Layout
	key       secret.Bytes
	next, lap int
}

// NewJournal continues the empty journal of an area.
func NewJournal(area []byte, l integrity.Layout, key secret.Bytes) *Journal {
	return &Journal{area: area, layout: l, key: key, lap: 1}
}

// Sections is how many there are.
func (j *Journal) Sections() int { return int(j.layout.JournalSize() / sectionSize) }

// Section is the nth section's bytes.
func (j *Journal) Section(n int) []byte {
	return j.area[integrity.SuperblockSize+n*sectionSize:][:sectionSize]
}

// A Sector is one to be committed: its place in the volume, and its plaintext.
type Sector struct {
	Off   int64
	Plain []byte
}

// Commit writes one section with at most 32 sectors and returns its number.
func (j *Journal) Commit(all ...Sector) int {
	n := j.next
	s := make([]byte, sectionSize)
	for i := range entries {
		e := s[i%8*block+i/8*120:][:120]
		if i >= len(all) {
			binary.LittleEndian.PutUint32(e[4:], 0xFFFFFFFF)
			continue
		}
		binary.LittleEndian.PutUint64(e, uint64(all[i].Off/block))
		var out sector
		if err := Write(&out, 0, j.layout, j.key, all[i].Plain, all[i].Off); err != nil {
			panic(err)
		}
		copy(s[(8+8*i)*block:], out.ciphertext)
		for k := range 8 {
			copy(e[8+8*k:], out.ciphertext[k*block+504:][:8])
		}
		copy(e[72:], out.tag)
	}
	for i := range sectors {
		id := []uint64{0x1111111111111111, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444}[j.lap]
		binary.LittleEndian.PutUint64(s[i*block+504:], id^uint64(n)<<32^uint64(i))
	}
	copy(j.Section(n), s)
	if j.next++; j.next == j.Sections() {
		j.next, j.lap = 0, (j.lap+1)%4
	}
	return n
}

// sector catches what Write writes: a tag, then a sector.
type sector struct{ tag, ciphertext []byte }

func (s *sector) WriteAt(b []byte, _ int64) (int, error) {
	if len(b) == integrity.TagSize {
		s.tag = b
	} else {
		s.ciphertext = b
	}
	return len(b), nil
}
