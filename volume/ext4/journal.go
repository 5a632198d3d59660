package ext4

import (
	"encoding/binary"
	"errors"
	"io"
)

// minJournal is JBD2_MIN_JOURNAL_BLOCKS.
const minJournal = 1024

// journalBlocks is what mke2fs chooses for a file system of so many blocks of
// 4 KiB (ext2fs_default_journal_size), but for its largest sizes: one extent is
// the most that is made here, 128 MiB.
func journalBlocks(blocks int64) uint32 {
	for _, s := range []struct {
		below   int64
		journal uint32
	}{{2048, 0}, {32768, minJournal}, {256 << 10, 4096}, {512 << 10, 8192}, {4096 << 10, 16384}} {
		if blocks < s.below {
			return s.journal
		}
	}
	return extentMaxInit
}

// addJournal returns how many blocks the journal takes.
func (im *Image) addJournal() uint32 {
	if !im.opt.Journal {
		return 0
	}
	n := journalBlocks(im.opt.Size / BlockSize)
	if im.opt.FullJournal {
		n = min(n, minJournal)
	}
	if n > 0 {
		im.journal = &Inode{Mode: typeRegular | 0o600, Size: int64(n) * BlockSize, Seconds: im.opt.Seconds, number: journalInode, links: 1}
	}
	return n
}

// written is the first block that nobody reads before it was written to: a
// journal that is empty is read no further than its super block.
func (im *Image) written() uint32 {
	if im.journal == nil || im.opt.FullJournal {
		return im.used
	}
	return im.used - im.journal.dataBlocks() + 1
}

// uninit reports whether a group's bitmaps are left for the kernel to make when
// it first uses the group. The last group's block bitmap never is, as with mke2fs.
func (im *Image) uninit(g uint32) (block, inode bool) {
	if !im.opt.Journal {
		return false, false
	}
	return g+1 < im.groups && usedIn(g, blocksPerGroup, im.used) == 0, usedIn(g, im.perG, im.lastInode()) == 0
}

// groupFlags says so in a group's descriptor. No group's inode table counts as
// written: the kernel zeroes a block of it when it first uses it.
func (im *Image) groupFlags(g uint32) (flags uint16) {
	block, inode := im.uninit(g)
	if block {
		flags |= groupBlockUninit
	}
	if inode {
		flags |= groupInodeUninit
	}
	return flags
}

// withinUnused reports whether a range of blocks holds such bitmaps only.
func (im *Image) withinUnused(within func(from, to uint32) bool) bool {
	blocks := (im.used + blocksPerGroup - 1) / blocksPerGroup
	inodes := (im.lastInode() + im.perG - 1) / im.perG
	return within(im.blockBitmaps()+blocks, im.blockBitmaps()+im.groups-1) || within(im.inodeBitmaps()+inodes, im.inodeTables())
}

// journalSuper is a journal's super block, big-endian (journal.rst).
func (im *Image) journalSuper(b []byte) {
	be := binary.BigEndian
	be.PutUint32(b[0x0:], 0xC03B3998)
	be.PutUint32(b[0x4:], 4) // super block, version 2
	be.PutUint32(b[0xC:], BlockSize)
	be.PutUint32(b[0x10:], im.journal.dataBlocks())
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first sequence number; a start of 0 says that the log is empty
	be.PutUint32(b[0x40:], 1) // file systems that share it
}

// describeJournal puts into the super block what comes with Options.Journal.
func (im *Image) describeJournal(b []byte) {
	if !im.opt.Journal {
		return
	}
	compat := le.Uint32(b[0x5C:]) | compatDirIndex
	// Half MD4 of signed characters, as mke2fs on amd64 has it; the seed need not
	// be secret, only of this file system.
	copy(b[0xEC:0xFC], im.opt.UUID[:])
	b[0xFC] = 1
	le.PutUint32(b[0x160:], 1)
	if im.journal != nil {
		compat |= compatHasJournal
		le.PutUint32(b[0xE0:], journalInode)
		// A copy of the inode's block map and size, by which e2fsck finds the
		// journal if the inode is lost.
		b[0xFD] = 1
		root, _ := im.journal.buildTree(im.seed)
		copy(b[0x10C:0x10C+60], root[:])
		le.PutUint32(b[0x10C+60:], uint32(im.journal.Size>>32))
		le.PutUint32(b[0x10C+64:], uint32(im.journal.Size))
	}
	le.PutUint32(b[0x5C:], compat)
}

// WriteUsed writes what is in use of an image without files' contents to the
// start of w, and returns how much that was, in bytes. What it leaves out may
// hold anything.
func (im *Image) WriteUsed(w io.WriterAt) (n int64, err error) {
	none := func(i *Inode) (io.ReaderAt, error) { return nil, errors.New("no contents") }
	const chunk = 16 // blocks; large ones would write more of what is not in use
	buf := make([]byte, chunk*BlockSize)
	for first := int64(0); first < int64(im.written()); first += chunk {
		used := buf[:im.Used(first, chunk)*BlockSize]
		if len(used) == 0 {
			continue
		}
		if err := im.Fill(used, first, none); err != nil {
			return n, err
		}
		m, err := w.WriteAt(used, first*BlockSize)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
