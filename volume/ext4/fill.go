package ext4

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// Contents opens what a regular file holds.
type Contents func(*Inode) (io.ReaderAt, error)

// Used tells how many of the blocks from first on are in use: the others are
// never read by anybody and need not be written. A range that lies within the
// inode tables of groups without inodes is not in use either, nor is one within
// the bitmaps of groups that have none yet.
func (im *Image) Used(first, count int64) int64 {
	within := func(from, to uint32) bool { return first >= int64(from) && first+count <= int64(to) }
	if within(im.unwrittenTables(), im.contents()) || im.opt.Journal && im.withinUnused(within) {
		return 0
	}
	return max(0, min(count, int64(im.written())-first))
}

// Fill produces the image's bytes from block first on into buf, whose length
// is a multiple of BlockSize. Unused blocks become zeros. An error from open
// or from reading names the file.
func (im *Image) Fill(buf []byte, first int64, open Contents) error {
	n := im.Used(first, int64(len(buf))/BlockSize)
	content := int64(im.contents())
	// The regions follow without a gap and fill their blocks.
	metadata := min(max(0, content-first), n)
	clear(buf[:metadata*BlockSize])
	clear(buf[n*BlockSize:])
	for b := first; b < first+metadata; b++ {
		im.metadata(buf[(b-first)*BlockSize:][:BlockSize], uint32(b))
	}
	k := sort.Search(len(im.regions), func(k int) bool {
		return int64(im.regions[k].start)+int64(im.regions[k].count) > first
	})
	for ; k < len(im.regions) && int64(im.regions[k].start) < first+n; k++ {
		r := im.regions[k]
		from := max(int64(r.start), first)
		to := min(int64(r.start)+int64(r.count), first+n)
		if err := im.region(buf[(from-first)*BlockSize:(to-first)*BlockSize], r, uint32(from)-r.start, open); err != nil {
			return err
		}
	}
	return nil
}

// region produces blocks of one region, from its block number skip on.
func (im *Image) region(buf []byte, r region, skip uint32, open Contents) error {
	if r.kind == regionData {
		return r.file(buf, skip, open)
	}
	clear(buf)
	switch r.kind {
	case regionDir:
		for k := 0; k*BlockSize < len(buf); k++ {
			im.dirBlock(buf[k*BlockSize:][:BlockSize], r.inode, int(skip)+k)
		}
	case regionTree:
		_, blocks := r.inode.buildTree(im.seed)
		copy(buf, blocks[int(skip)*BlockSize:])
	case regionXattr:
		r.inode.xattrBlock(im.seed, buf)
	case regionTarget:
		copy(buf, r.inode.Target)
	case regionJournal:
		if skip == 0 {
			im.journalSuper(buf)
		}
	}
	return nil
}

func (r region) file(buf []byte, skip uint32, open Contents) error {
	f, err := open(r.inode)
	if err != nil {
		return err
	}
	off := (int64(r.logical) + int64(skip)) * BlockSize
	want := min(int64(len(buf)), r.inode.Size-off)
	clear(buf[want:])
	n, err := f.ReadAt(buf[:want], off)
	if int64(n) == want {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the file became shorter while it was read")
	}
	return fmt.Errorf("reading %s: %w", r.inode.Path, err)
}

func (im *Image) dirBlock(b []byte, d *Inode, index int) {
	from, to := int(d.dirBlocks[index]), len(d.Entries)
	if index+1 < len(d.dirBlocks) {
		to = int(d.dirBlocks[index+1])
	}
	at, last := 0, 0
	put := func(i *Inode, name string) {
		e := b[at:]
		size := entrySize(name)
		le.PutUint32(e[0:], i.number)
		le.PutUint16(e[4:], uint16(size))
		e[6], e[7] = byte(len(name)), dirFileType(i.Mode)
		copy(e[8:], name)
		last, at = at, at+size
	}
	if index == 0 {
		put(d, ".")
		put(d.parent, "..")
	}
	for _, e := range d.Entries[from:to] {
		put(e.Inode, e.Name)
	}
	end := BlockSize - dirTail
	le.PutUint16(b[last+4:], uint16(end-last))
	le.PutUint16(b[end+4:], dirTail)
	b[end+7] = 0xDE
	le.PutUint32(b[end+8:], crc(inodeSeed(im.seed, d.number, 0), b[:end]))
}

// metadata produces one block of the front part.
func (im *Image) metadata(b []byte, block uint32) {
	switch {
	case block == 0:
		im.superblock(b[superOffset:][:superSize])
	case block < im.blockBitmaps():
		for k := range uint32(BlockSize / descSize) {
			if g := (block-1)*(BlockSize/descSize) + k; g < im.groups {
				im.descriptor(b[k*descSize:][:descSize], g)
			}
		}
	case block < im.inodeBitmaps():
		im.blockBitmap(b, block-im.blockBitmaps())
	case block < im.inodeTables():
		im.inodeBitmap(b, block-im.inodeBitmaps())
	default:
		first := (block-im.inodeTables())*inodesPerBlock + 1
		for k := range uint32(inodesPerBlock) {
			if i := im.byNumber(first + k); i != nil {
				im.inode(b[k*inodeSize:][:inodeSize], i)
			}
		}
	}
}

func (im *Image) byNumber(n uint32) *Inode {
	switch {
	case n == rootInode:
		return im.root
	case n == journalInode:
		return im.journal
	case n >= firstInode && int(n-firstInode) < len(im.inodes):
		return im.inodes[n-firstInode]
	}
	return nil
}

// lastInode is the highest inode number in use.
func (im *Image) lastInode() uint32 { return uint32(firstInode - 1 + len(im.inodes)) }

// usedIn tells how much of a group's range [g×per, (g+1)×per) lies below n.
func usedIn(g, per, n uint32) uint32 {
	if uint64(g)*uint64(per) >= uint64(n) {
		return 0
	}
	return min(per, n-g*per)
}

// gapIn is how many blocks of the gap lie in group g: all of them in the first.
func (im *Image) gapIn(g uint32) uint32 {
	if g > 0 {
		return 0
	}
	return im.gap
}

func (im *Image) groupBlocks(g uint32) uint32 { return usedIn(g, blocksPerGroup, im.blocks) }

func setBits(b []byte, from, to uint32) {
	for ; from < to && from%8 != 0; from++ {
		b[from/8] |= 1 << (from % 8)
	}
	for ; from+8 <= to; from += 8 {
		b[from/8] = 0xFF
	}
	for ; from < to; from++ {
		b[from/8] |= 1 << (from % 8)
	}
}

func (im *Image) blockBitmap(b []byte, g uint32) {
	setBits(b, 0, usedIn(g, blocksPerGroup, im.used))
	setBits(b, im.groupBlocks(g), blocksPerGroup)
	for k := range im.gapIn(g) {
		at := 1 + im.gdtBlocks() + k
		b[at/8] &^= 1 << (at % 8)
	}
}

func (im *Image) inodeBitmap(b []byte, g uint32) {
	setBits(b, 0, usedIn(g, im.perG, im.lastInode()))
	setBits(b, im.perG, maxPerGroup)
}

func (im *Image) descriptor(b []byte, g uint32) {
	inodes := usedIn(g, im.perG, im.lastInode())
	le.PutUint32(b[0x0:], im.blockBitmaps()+g)
	le.PutUint32(b[0x4:], im.inodeBitmaps()+g)
	le.PutUint32(b[0x8:], im.inodeTables()+g*im.perG/inodesPerBlock)
	le.PutUint16(b[0xC:], uint16(im.groupBlocks(g)-usedIn(g, blocksPerGroup, im.used)+im.gapIn(g)))
	le.PutUint16(b[0xE:], uint16(im.perG-inodes))
	le.PutUint16(b[0x10:], uint16(im.dirs[g]))
	le.PutUint16(b[0x12:], groupInodeZeroed)
	if inodes == 0 {
		le.PutUint16(b[0x12:], groupInodeUninit)
	}
	le.PutUint16(b[0x1C:], uint16(im.perG-inodes))
	blockUninit, inodeUninit := im.uninit(g)
	bitmap := make([]byte, BlockSize)
	if !blockUninit {
		im.blockBitmap(bitmap, g)
		le.PutUint16(b[0x18:], uint16(crc(im.seed, bitmap)))
	}
	if !inodeUninit {
		clear(bitmap)
		im.inodeBitmap(bitmap, g)
		le.PutUint16(b[0x1A:], uint16(crc(im.seed, bitmap[:im.perG/8])))
	}
	if im.opt.Journal {
		le.PutUint16(b[0x12:], im.groupFlags(g))
	}
	le.PutUint16(b[0x1E:], descriptorChecksum(im.seed, g, b))
}

func (im *Image) superblock(b []byte) {
	le.PutUint32(b[0x0:], im.perG*im.groups)
	le.PutUint32(b[0x4:], im.blocks)
	le.PutUint32(b[0xC:], im.blocks-im.used+im.gap)
	le.PutUint32(b[0x10:], im.perG*im.groups-im.lastInode())
	le.PutUint32(b[0x18:], 2) // block size 1024 << 2
	le.PutUint32(b[0x1C:], 2)
	le.PutUint32(b[0x20:], blocksPerGroup)
	le.PutUint32(b[0x24:], blocksPerGroup)
	le.PutUint32(b[0x28:], im.perG)
	le.PutUint32(b[0x30:], uint32(im.opt.Seconds))
	le.PutUint16(b[0x36:], 0xFFFF) // no check after a number of mounts
	le.PutUint16(b[0x38:], superMagic)
	le.PutUint16(b[0x3A:], 1) // cleanly unmounted
	le.PutUint16(b[0x3C:], 2) // on errors: read-only
	le.PutUint32(b[0x40:], uint32(im.opt.Seconds))
	le.PutUint32(b[0x4C:], 1) // dynamic revision
	le.PutUint32(b[0x54:], firstInode)
	le.PutUint16(b[0x58:], inodeSize)
	// sparse_super2 with no backup groups keeps the contents in one piece.
	le.PutUint32(b[0x5C:], compatExtAttr|compatSparseSuper2)
	le.PutUint32(b[0x60:], incompatFiletype|incompatExtents|incompatFlexBG)
	le.PutUint32(b[0x64:], roCompatLargeFile|roCompatHugeFile|roCompatDirNlink|roCompatExtraIsize|roCompatMetadataCsum)
	copy(b[0x68:], im.opt.UUID[:])
	copy(b[0x78:0x88], im.opt.Label)
	le.PutUint32(b[0x108:], uint32(im.opt.Seconds))
	le.PutUint16(b[0x15C:], inodeFixed-128)
	le.PutUint16(b[0x15E:], inodeFixed-128)
	b[0x174] = 31 // one flex group for all
	b[0x175] = 1  // crc32c
	im.describeJournal(b)
	le.PutUint32(b[0x3FC:], crc(^uint32(0), b[:0x3FC]))
}

func (im *Image) inode(b []byte, i *Inode) {
	size := i.Size
	switch i.Mode & typeMask {
	case typeDir:
		size = int64(i.dataBlocks()) * BlockSize
	case typeSymlink:
		size = int64(len(i.Target))
	}
	blocks := uint64(i.dataBlocks()) + uint64(i.treeBlocks())
	if i.xattr != 0 {
		blocks++
	}
	blocks *= BlockSize / 512
	links := i.links
	if links > linkMax {
		links = 1 // dir_nlink: a directory of too many to count
	}
	le.PutUint16(b[0x0:], i.Mode)
	le.PutUint32(b[0x4:], uint32(size))
	le.PutUint32(b[0x6C:], uint32(size>>32))
	for _, at := range []int{0x8, 0xC, 0x10, 0x90} {
		le.PutUint32(b[at:], uint32(i.Seconds))
	}
	extra := i.Nanos<<2 | uint32((i.Seconds-int64(int32(i.Seconds)))>>32)&3
	for _, at := range []int{0x84, 0x88, 0x8C, 0x94} {
		le.PutUint32(b[at:], extra)
	}
	le.PutUint16(b[0x1A:], uint16(links))
	le.PutUint32(b[0x1C:], uint32(blocks))
	le.PutUint16(b[0x74:], uint16(blocks>>32))
	if i.Mode&typeMask == typeSymlink && len(i.Target) < fastSymlink {
		copy(b[0x28:], i.Target)
	} else {
		le.PutUint32(b[0x20:], flagExtents)
		root, _ := i.buildTree(im.seed)
		copy(b[0x28:], root[:])
	}
	le.PutUint32(b[0x68:], i.xattr)
	le.PutUint16(b[0x80:], inodeFixed-128)
	if len(i.Xattrs) > 0 && i.xattr == 0 {
		le.PutUint32(b[inodeFixed:], xattrMagic)
		i.putXattrs(b[inodeFixed+4:], 0, false)
	}
	sum := inodeChecksum(im.seed, i.number, b)
	le.PutUint16(b[0x7C:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
}
