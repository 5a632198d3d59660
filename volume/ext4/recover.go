package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// What a journal is made of (journal.rst). Everything in it is big-endian.
const (
	jbdMagic       = 0xC03B3998
	jbdDescriptor  = 1
	jbdCommit      = 2
	jbdSuper2      = 4
	jbdRevoke      = 5
	jbdHeader      = 12 // magic, type, sequence
	jbdTag         = 16 // of a descriptor, under jbdChecksums
	jbdTail        = 4  // checksum at the end of a descriptor or revocation
	jbdUUID        = 16
	jbdCRC32C      = 4
	jbdEscaped     = 0x1 // the block began with the magic, which is zeros in the journal
	jbdSameUUID    = 0x2
	jbdLastTag     = 0x8
	jbdRevocations = 0x1 // features
	jbd64bit       = 0x2
	jbdChecksums   = 0x10 // version 3
)

// maxJournal is the most blocks of a journal that are read, 4 GiB: mke2fs makes
// none of more than one by itself.
const maxJournal = 1 << 20

var errJournal = errors.New("the journal is damaged")

// An overlay reads a file system as the kernel would leave it after it has
// replayed the journal: whole transactions count over what lies in place.
type overlay struct {
	r       io.ReaderAt
	blocks  map[int64]logged
	ordered []int64 // the keys of blocks
}

// A logged block lies in another place.
type logged struct {
	at       int64 // block of the file system
	escaped  bool
	sequence uint32
	sum      uint32
}

// ReadAt reads what the journal has for each block, if it has any.
func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	for n := 0; n < len(b); {
		at := off + int64(n)
		block, within := at/BlockSize, at%BlockSize
		part := b[n:min(len(b), n+int(BlockSize-within))]
		l, ok := o.blocks[block]
		if ok {
			at = l.at*BlockSize + within
		}
		if m, err := o.r.ReadAt(part, at); m < len(part) {
			return n + m, err
		}
		for k := range part {
			if l.escaped && within+int64(k) < 4 {
				part[k] = byte(uint32(jbdMagic) >> (24 - 8*(within+int64(k))))
			}
		}
		n += len(part)
	}
	return len(b), nil
}

// holds reports whether any of count blocks from first on is in the journal.
func (o *overlay) holds(first, count int64) bool {
	k, _ := slices.BinarySearch(o.ordered, first)
	return k < len(o.ordered) && o.ordered[k] < first+count
}

// A log is a journal that is being read.
type log struct {
	fs          *FS
	extents     []Extent
	first, size uint32 // blocks; the log wraps around to first
	seed        uint32
	wide        bool // block numbers of 64 bits in revocations
}

// replay reads the journal and returns what is to be read in place of fs.r.
func (fs *FS) replay() (*overlay, error) {
	o, err := fs.readLog()
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	return o, nil
}

func (fs *FS) readLog() (*overlay, error) {
	f, err := fs.anyInode(journalInode)
	if err != nil {
		return nil, err
	}
	l := log{fs: fs}
	if l.extents, err = f.Extents(); err != nil {
		return nil, err
	}
	b, err := l.block(0)
	if err != nil {
		return nil, err
	}
	be := binary.BigEndian
	o := &overlay{r: fs.r, blocks: map[int64]logged{}}
	start, sequence := be.Uint32(b[0x1C:]), be.Uint32(b[0x18:])
	l.size, l.first = be.Uint32(b[0x10:]), be.Uint32(b[0x14:])
	switch {
	case be.Uint32(b) != jbdMagic || be.Uint32(b[4:]) != jbdSuper2 || be.Uint32(b[0xC:]) != BlockSize:
		return nil, fmt.Errorf("%w: no super block", errJournal)
	case int64(l.size) > min(f.Size/BlockSize, maxJournal) || l.first < 1 || l.first >= l.size || start >= l.size || start != 0 && start < l.first:
		return nil, fmt.Errorf("%w: its size or beginning is out of bounds", errJournal)
	case start == 0:
		return o, nil // empty
	}
	features := be.Uint32(b[0x28:])
	if features&^(jbdRevocations|jbd64bit) != jbdChecksums || b[0x50] != jbdCRC32C {
		return nil, fmt.Errorf("%w (features %#x)", ErrNeedsRecovery, features)
	}
	l.wide = features&jbd64bit != 0
	if !sumFits(^uint32(0), b[:superSize], 0xFC) {
		return nil, fmt.Errorf("%w: checksum of its super block", errJournal)
	}
	l.seed = crc(^uint32(0), b[0x30:0x40])
	if err := l.collect(o, start, sequence); err != nil {
		return nil, err
	}
	for n := range o.blocks {
		o.ordered = append(o.ordered, n)
	}
	slices.Sort(o.ordered)
	return o, nil
}

// sumFits checks the big-endian checksum at b[at:], which is computed with zeros
// in its place.
func sumFits(seed uint32, b []byte, at int) bool {
	c := crc(crc(seed, b[:at]), make([]byte, 4))
	return crc(c, b[at+4:]) == binary.BigEndian.Uint32(b[at:])
}

// block reads a block of the log.
func (l *log) block(n uint32) ([]byte, error) {
	at, err := l.place(n)
	if err != nil {
		return nil, err
	}
	return l.fs.block(at)
}

func (l *log) place(n uint32) (int64, error) {
	for _, e := range l.extents {
		if k := int64(n) - e.Logical; k >= 0 && k < e.Count {
			return e.Physical + k, nil
		}
	}
	return 0, fmt.Errorf("%w: block %d has no place", errJournal, n)
}

// after is the block of the log n blocks behind at.
func (l *log) after(at, n uint32) uint32 {
	if at += n; at >= l.size {
		at -= l.size - l.first
	}
	return at
}

// collect adds the blocks of all transactions that were committed, from the one
// that begins at block at. The log ends where no block of the next one follows.
func (l *log) collect(o *overlay, at, sequence uint32) error {
	be := binary.BigEndian
	revoked := map[int64]uint32{} // by the last transaction that said so
	transaction := map[int64]logged{}
	revocations := map[int64]bool{}
	for left := l.size - l.first; ; {
		b, err := l.block(at)
		if err != nil {
			return err
		}
		if be.Uint32(b) != jbdMagic || be.Uint32(b[8:]) != sequence {
			break
		}
		length := uint32(1)
		switch be.Uint32(b[4:]) {
		case jbdDescriptor:
			n, err := l.descriptor(b, at, sequence, transaction)
			if err != nil {
				return err
			}
			length += n
		case jbdRevoke:
			if err := l.revocation(b, revocations); err != nil {
				return err
			}
		case jbdCommit:
			if !sumFits(l.seed, b, jbdHeader+4) {
				return fmt.Errorf("%w: checksum of commit %d", errJournal, sequence)
			}
			for n, where := range transaction {
				if err := l.check(where); err != nil {
					return err
				}
				o.blocks[n] = where
			}
			for n := range revocations {
				revoked[n] = sequence
			}
			clear(transaction)
			clear(revocations)
			sequence++
		default:
			return fmt.Errorf("%w: a block of type %d", errJournal, be.Uint32(b[4:]))
		}
		if length > left {
			break
		}
		left -= length
		at = l.after(at, length)
	}
	for n, last := range revoked {
		// A transaction does not revoke what later ones wrote.
		if where, ok := o.blocks[n]; ok && int32(last-where.sequence) >= 0 {
			delete(o.blocks, n)
		}
	}
	return nil
}

// descriptor reads which blocks follow it, and returns how many they are.
func (l *log) descriptor(b []byte, at, sequence uint32, into map[int64]logged) (n uint32, err error) {
	end := BlockSize - jbdTail
	if !sumFits(l.seed, b, end) {
		return 0, fmt.Errorf("%w: checksum of a descriptor", errJournal)
	}
	be := binary.BigEndian
	for t := jbdHeader; ; {
		if t+jbdTag > end {
			return n, nil
		}
		flags := be.Uint32(b[t+4:])
		block := int64(be.Uint32(b[t:])) | int64(be.Uint32(b[t+8:]))<<32
		if block < 0 || block >= l.fs.blocks {
			return 0, fmt.Errorf("%w: it has a block outside the file system", errJournal)
		}
		if n++; n >= l.size-l.first {
			return 0, fmt.Errorf("%w: a descriptor of more than it holds", errJournal)
		}
		where, err := l.place(l.after(at, n))
		if err != nil {
			return 0, err
		}
		into[block] = logged{at: where, escaped: flags&jbdEscaped != 0, sequence: sequence, sum: be.Uint32(b[t+12:])}
		if t += jbdTag; flags&jbdSameUUID == 0 {
			t += jbdUUID
		}
		if flags&jbdLastTag != 0 {
			return n, nil
		}
	}
}

// check compares a logged block with its tag's checksum.
func (l *log) check(where logged) error {
	b, err := l.fs.block(where.at)
	if err != nil {
		return err
	}
	var sequence [4]byte
	binary.BigEndian.PutUint32(sequence[:], where.sequence)
	if crc(crc(l.seed, sequence[:]), b) != where.sum {
		return fmt.Errorf("%w: checksum of a block", errJournal)
	}
	return nil
}

// revocation reads which blocks are not to be replayed.
func (l *log) revocation(b []byte, into map[int64]bool) error {
	be := binary.BigEndian
	end, size := int64(be.Uint32(b[jbdHeader:])), int64(4)
	if l.wide {
		size = 8
	}
	if !sumFits(l.seed, b, BlockSize-jbdTail) {
		return fmt.Errorf("%w: checksum of a revocation", errJournal)
	}
	if end < jbdHeader+4 || end > BlockSize-jbdTail || (end-jbdHeader-4)%size != 0 {
		return fmt.Errorf("%w: a revocation of %d bytes", errJournal, end)
	}
	for at := int64(jbdHeader + 4); at < end; at += size {
		n := int64(be.Uint32(b[at:]))
		if l.wide {
			n = int64(be.Uint64(b[at:]))
		}
		into[n] = true
	}
	return nil
}
