package integrity

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
)

// The journal is a ring of sections. Each 512 bytes of it end in a commit id,
// which is told by the section's lap around the ring, its number and the place
// in it: so a section that was written in part is known.
const (
	commitIDSize = 8
	laps         = 4          // N_COMMIT_IDS: the laps' numbers wrap around
	unused       = 0xFFFFFFFF // sector_hi of an entry that holds nothing
)

// commitID is that of a journal without a key (create_journal).
func commitID(lap, section, j int) uint64 {
	return uint64(lap+1)*0x1111111111111111 ^ (uint64(section)<<32 | uint64(j))
}

// A section is one of the journal's.
type section []byte

func (s section) commitID(j int) uint64 {
	return binary.LittleEndian.Uint64(s[(j+1)*unit-commitIDSize:])
}

// lap is that of one of the section's 512 bytes, or -1.
func (s section) lap(number, j int) int {
	for lap := range laps {
		if s.commitID(j) == commitID(lap, number, j) {
			return lap
		}
	}
	return -1
}

// whole reports whether all of the section was written in lap.
func (s section) whole(number, lap int) bool {
	for j := range sectionSectors {
		if s.commitID(j) != commitID(lap, number, j) {
			return false
		}
	}
	return true
}

// entry is the nth, with which a sector came: struct journal_entry.
func (s section) entry(n int) []byte {
	return s[n%journalBlock*unit+n/journalBlock*entrySize:][:entrySize]
}

func (s section) empty() bool {
	for n := range entriesPerSection {
		if binary.LittleEndian.Uint32(s.entry(n)[4:]) != unused {
			return false
		}
	}
	return true
}

// emptySection is what init_journal writes.
func emptySection(number, lap int) section {
	s := make(section, sectionSize)
	for j := range sectionSectors {
		binary.LittleEndian.PutUint64(s[(j+1)*unit-commitIDSize:], commitID(lap, number, j))
	}
	for n := range entriesPerSection {
		binary.LittleEndian.PutUint32(s.entry(n)[4:], unused)
	}
	return s
}

// A written is a sector as it lies in the journal.
type written struct{ ciphertext, tag []byte }

// readJournal returns what the journal holds, by the sectors' places in the
// volume.
func (r *Reader) readJournal() (map[int64]written, error) {
	b := make([]byte, r.layout.JournalSize())
	if err := readFull(r.area, b, SuperblockSize); err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	sections := make([]section, r.layout.sections())
	for i := range sections {
		sections[i] = b[i*sectionSize:][:sectionSize]
	}
	order, err := committed(sections)
	if err != nil {
		return nil, err
	}
	all, mac := map[int64]written{}, NewMAC(r.mac.Reveal())
	for _, i := range order {
		if err := r.layout.collect(sections[i], mac, all); err != nil {
			return nil, fmt.Errorf("section %d of the journal: %w", i, err)
		}
	}
	return all, nil
}

// committed lists the sections that the kernel replays, oldest first
// (replay_journal). The newest lap ends where the next sections are of the lap
// before it; what was being written at the end was not yet said to be stored,
// and what it overwrote had its place.
func committed(sections []section) (order []int, err error) {
	empty, used, highest := true, [laps]bool{}, [laps]int{}
	for i, s := range sections {
		for j := range sectionSectors {
			lap := s.lap(i, j)
			if lap < 0 {
				return nil, fmt.Errorf("section %d of the journal: %w", i, ErrAltered)
			}
			used[lap], highest[lap] = true, i
		}
		empty = empty && s.empty()
	}
	newest, err := newestLap(used)
	if err != nil {
		return nil, err
	}
	want := (newest + laps - 1) % laps
	if empty || !used[want] && used[(want+laps-1)%laps] {
		return nil, nil
	}
	i := highest[newest] + 1
	for range sections {
		if i == len(sections) {
			i, want = 0, (want+1)%laps
		}
		if !sections[i].whole(i, want) {
			break
		}
		order = append(order, i)
		i++
	}
	return order, nil
}

// newestLap is the one before the first that is not in use.
func newestLap(used [laps]bool) (int, error) {
	free := laps - 1
	if !used[free] {
		for free > 0 && !used[free-1] {
			free--
		}
	} else {
		for free = 0; free < laps && used[free]; free++ {
		}
	}
	if free == laps {
		return 0, fmt.Errorf("a journal with sections of all laps: %w", ErrAltered)
	}
	return (free + laps - 1) % laps, nil
}

// collect puts a section's entries over those before. It changes s: the last
// bytes of each 512 of a sector are in its entry, the commit id has their place.
func (l Layout) collect(s section, mac MAC, all map[int64]written) error {
	le := binary.LittleEndian
	for n := range entriesPerSection {
		e := s.entry(n)
		if le.Uint32(e[4:]) == unused {
			continue
		}
		at := le.Uint64(e)
		if at >= uint64(l.size/unit) || at%(SectorSize/unit) != 0 {
			return fmt.Errorf("an entry of no sector: %w", ErrAltered)
		}
		ciphertext := s[journalBlock*unit+n*SectorSize:][:SectorSize]
		for j := range SectorSize / unit {
			copy(ciphertext[(j+1)*unit-commitIDSize:], e[8+j*commitIDSize:][:commitIDSize])
		}
		off, tag := int64(at)*unit, e[entrySize-TagSize:]
		if !hmac.Equal(mac.Of(off, tag[macSize:], ciphertext), tag[:macSize]) {
			return fmt.Errorf("sector %d: %w", off/SectorSize, ErrAltered)
		}
		all[off] = written{ciphertext, tag}
	}
	return nil
}
