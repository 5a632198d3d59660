package ext4

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// An Inode is a file, directory or symbolic link to be written. The same
// Inode in several entries is a hard link. Owner and group are always 0.
type Inode struct {
	Mode    uint16 // type and permission bits as stat gives them
	Size    int64  // bytes, of a regular file
	Seconds int64  // modification time since 1970
	Nanos   uint32
	Path    string // for the caller's use when it is asked for contents
	Target  string // of a symbolic link
	// Holes tells that Data lists the parts that hold data. Otherwise all of
	// the file does.
	Holes   bool
	Data    []Run
	Xattrs  []Xattr
	Entries []Entry // of a directory

	number    uint32
	links     uint32
	data      uint32  // first block of contents
	tree      uint32  // first block of the extent tree, if it does not fit the inode
	xattr     uint32  // block of extended attributes, if they do not fit the inode
	dirBlocks []int32 // index of the entry that begins each block
	parent    *Inode
}

// A Run is a range of a file's blocks that holds data.
type Run struct{ First, Count uint32 }

// An Entry is a name in a directory.
type Entry struct {
	Name  string
	Inode *Inode
}

// An Xattr is an extended attribute; only the namespace user is kept.
type Xattr struct {
	Name  string // without "user."
	Value []byte
}

// Options for NewImage.
type Options struct {
	Label string // at most 16 bytes
	UUID  [16]byte
	// Free is room to leave for growth, in bytes, with one inode for each 64 KiB.
	Free int64
	// Size, if not zero, is that of the whole file system in bytes, a multiple
	// of BlockSize; what the contents leave is room for growth. Free must be 0.
	Size    int64
	Seconds int64 // time of making, since 1970
	// Journal is for a file system of Size that is to be mounted and written. It
	// gets an empty journal of the size that mke2fs would choose, if it has room
	// for one, indexed directories, whose seed is UUID, an inode for each 16 KiB
	// of room as mke2fs gives, and nothing more in use than it needs: how much
	// must be written hardly depends on its size.
	Journal bool
	// FullJournal is for a device on which what was never written cannot be read:
	// the kernel reads a journal to its first block that belongs to no transaction.
	// The journal is the smallest that the kernel takes, 4 MiB, and all of it is
	// written.
	FullJournal bool
	// Stream, if not nil, has placed the contents of all regular files already.
	Stream *Stream
}

// Image is a laid-out file system. It is not changed any more and safe for
// concurrent use.
type Image struct {
	opt     Options
	seed    uint32
	inodes  []*Inode // from firstInode on; nil for one that isn't used
	root    *Inode
	journal *Inode // nil without one
	groups  uint32
	perG    uint32 // inodes per group
	blocks  uint32
	used    uint32 // blocks in use: all of the first ones, but for gap
	front   uint32 // the first block bitmap
	gap     uint32 // free blocks behind the group descriptors
	regions []region
	dirs    []uint32 // used directories per group
}

type regionKind uint8

const (
	regionDir regionKind = iota
	regionTree
	regionXattr
	regionTarget
	regionData
	regionJournal
)

// A region is a range of blocks that belongs to one inode.
type region struct {
	start, count uint32
	kind         regionKind
	logical      uint32 // of file data: the file's block that start holds
	inode        *Inode
}

const (
	inodeSize       = 256
	inodeFixed      = 160 // through i_projid
	inodesPerBlock  = BlockSize / inodeSize
	inodesIncrement = inodesPerBlock
	descSize        = 32
	maxPerGroup     = BlockSize * 8 // inode bitmap of one block
	maxBlocks       = 1<<32 - 1     // without the 64bit feature
	freePerInode    = 64 << 10
	// mke2fs's inode_ratio
	journalledPerInode = 16 << 10
	dirTail            = 12 // checksum at the end of a directory block
	extentsPerBlock    = (BlockSize - 12 - 4) / 12
	extentsInInode     = 4
	fastSymlink        = 60 // shorter targets lie in the inode
	lostAndFound       = "lost+found"
)

// NewImage lays out the tree under root, a directory. It changes the inodes'
// private fields and sorts the entries by name. Names, link counts, sizes and
// attributes beyond ext4's limits are errors.
func NewImage(root *Inode, opt Options) (*Image, error) {
	if root.Mode&typeMask != typeDir {
		return nil, errors.New("laying out ext4: the root is no directory")
	}
	if len(opt.Label) > 16 || opt.Free < 0 || opt.Free > maxBlocks*BlockSize {
		return nil, errors.New("laying out ext4: label or free space out of bounds")
	}
	if opt.Journal && (opt.Size == 0 || opt.Stream != nil) {
		return nil, errors.New("laying out ext4: a journal needs a size, and goes with no stream")
	}
	if opt.Size != 0 && (opt.Free != 0 || opt.Size < 0 || opt.Size%BlockSize != 0) {
		return nil, errors.New("laying out ext4: size is no whole number of blocks, or comes with free space")
	}
	im := &Image{opt: opt, root: root, seed: crc(^uint32(0), opt.UUID[:])}
	if err := im.number(root); err != nil {
		return nil, err
	}
	content, err := im.measure()
	if err != nil {
		return nil, err
	}
	content += int64(im.addJournal())
	if err := im.fit(content); err != nil {
		return nil, err
	}
	im.place()
	return im, nil
}

// Size is the length of the image in bytes.
func (im *Image) Size() int64 { return int64(im.blocks) * BlockSize }

// Files is the number of inodes in use beside the reserved ones.
func (im *Image) Files() int { return len(im.inodes) }

// number gives each inode its number, in the order of the walk.
func (im *Image) number(root *Inode) error {
	at, found := slices.BinarySearchFunc(sorted(root), lostAndFound, func(e Entry, n string) int { return strings.Compare(e.Name, n) })
	if !found {
		// e2fsck wants the directory to exist.
		lf := &Inode{Mode: typeDir | 0o700, Seconds: im.opt.Seconds, Path: lostAndFound}
		root.Entries = slices.Insert(root.Entries, at, Entry{lostAndFound, lf})
	}
	lf := root.Entries[at].Inode
	if lf.Mode&typeMask != typeDir {
		return fmt.Errorf("laying out ext4: %s at the top must be a directory", lostAndFound)
	}
	root.number, root.links, root.parent = rootInode, 1, root
	lf.number = firstInode
	im.inodes = append(im.inodes, lf)
	stack := []*Inode{root}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		d.links++ // its own "."
		entries := sorted(d)
		for i, e := range entries {
			if err := validName(e.Name); err != nil {
				return fmt.Errorf("laying out ext4: %.300q in %s: %w", e.Name, d.Path, err)
			}
			if i > 0 && entries[i-1].Name == e.Name {
				return fmt.Errorf("laying out ext4: %q twice in %s", e.Name, d.Path)
			}
			c := e.Inode
			c.links++
			isDir := c.Mode&typeMask == typeDir
			if isDir {
				d.links++ // the child's ".."
				c.parent = d
				stack = append(stack, c)
			}
			if c.links > 1 && (isDir || c.links > linkMax) {
				return fmt.Errorf("laying out ext4: %s has too many links", c.Path)
			}
			if c.number == 0 {
				c.number = uint32(firstInode + len(im.inodes))
				im.inodes = append(im.inodes, c)
			}
		}
		if len(im.inodes) > 1<<31 {
			return errors.New("laying out ext4: too many files")
		}
	}
	return nil
}

func sorted(d *Inode) []Entry {
	slices.SortFunc(d.Entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return d.Entries
}

func validName(n string) error {
	switch {
	case n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00"):
		return errors.New("not a file name")
	case len(n) > maxNameLen:
		return fmt.Errorf("name is longer than %d bytes", maxNameLen)
	}
	return nil
}

// each calls f for the root and every other inode, in the order of numbers.
func (im *Image) each(f func(*Inode) error) error {
	if err := f(im.root); err != nil {
		return err
	}
	for _, i := range im.inodes {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// measure counts the blocks of contents and fills in dirBlocks.
func (im *Image) measure() (blocks int64, err error) {
	err = im.each(func(i *Inode) error {
		switch i.Mode & typeMask {
		case typeDir:
			i.packDir()
		case typeRegular:
			if err := i.checkRuns(); err != nil {
				return err
			}
		case typeSymlink:
			if len(i.Target) == 0 || len(i.Target) >= BlockSize {
				return fmt.Errorf("laying out ext4: %s: symbolic link of %d bytes", i.Path, len(i.Target))
			}
		default:
			return fmt.Errorf("laying out ext4: %s is neither file, directory nor symbolic link", i.Path)
		}
		if err := i.checkXattrs(); err != nil {
			return err
		}
		blocks += int64(i.treeBlocks())
		if !im.streamed(i) {
			blocks += int64(i.dataBlocks())
		}
		if i.xattrsNeedBlock() {
			blocks++
		}
		if blocks > maxBlocks {
			return errors.New("laying out ext4: more than 16 TiB")
		}
		return nil
	})
	return blocks, err
}

// ErrTooSmall says that the contents do not fit the size that was asked for.
var ErrTooSmall = errors.New("the contents do not fit that size")

// fit chooses groups, inodes per group and size.
func (im *Image) fit(content int64) error {
	room := im.opt.Free
	if im.opt.Size > 0 {
		room = im.opt.Size - content*BlockSize
		if im.opt.Stream != nil {
			room -= im.opt.Stream.Offset()
		}
		room = max(0, room)
	}
	per := int64(freePerInode)
	if im.opt.Journal {
		per = journalledPerInode
	}
	inodes := int64(firstInode-1+len(im.inodes)) + room/per
	free := (im.opt.Free + BlockSize - 1) / BlockSize
	groups := max(1, (inodes+maxPerGroup-1)/maxPerGroup)
	for {
		perG := (inodes + groups - 1) / groups
		perG = (perG + inodesIncrement - 1) / inodesIncrement * inodesIncrement
		gdt := (groups*descSize + BlockSize - 1) / BlockSize
		front := 1 + gdt
		if im.opt.Stream != nil {
			if front > StreamStart {
				return fmt.Errorf("laying out ext4: a file system made from a stream is limited to %d TiB", streamLimit>>40)
			}
			front = int64(im.opt.Stream.next)
			im.gap = uint32(StreamStart - 1 - gdt)
		}
		used := front + 2*groups + groups*perG/inodesPerBlock + content
		total := max(used+free, (groups-1)*blocksPerGroup+1)
		if im.opt.Size > 0 {
			if total > im.opt.Size/BlockSize {
				return fmt.Errorf("laying out ext4: %w: they take %d bytes", ErrTooSmall, total*BlockSize)
			}
			total = im.opt.Size / BlockSize
		}
		if total > maxBlocks {
			return errors.New("laying out ext4: more than 16 TiB")
		}
		if need := (total + blocksPerGroup - 1) / blocksPerGroup; need > groups {
			groups = need
			continue
		}
		im.groups, im.perG, im.blocks, im.used = uint32(groups), uint32(perG), uint32(total), uint32(used)
		im.front = uint32(front)
		return nil
	}
}

// The metadata lies in one piece at the front: super block, descriptors, block
// bitmaps, inode bitmaps, inode tables. (flex_bg allows that.) The contents of
// a stream come between descriptors and bitmaps.
func (im *Image) gdtBlocks() uint32    { return (im.groups*descSize + BlockSize - 1) / BlockSize }
func (im *Image) blockBitmaps() uint32 { return im.front }
func (im *Image) inodeBitmaps() uint32 { return im.blockBitmaps() + im.groups }
func (im *Image) inodeTables() uint32  { return im.inodeBitmaps() + im.groups }
func (im *Image) contents() uint32 {
	return im.inodeTables() + im.groups*im.perG/inodesPerBlock
}

// unwrittenTables is where the tables of the groups without inodes begin. The
// kernel fills them with zeros when the file system is first written to.
func (im *Image) unwrittenTables() uint32 {
	if im.opt.Journal {
		return im.inodeTables() + (im.lastInode()+inodesPerBlock-1)/inodesPerBlock
	}
	groups := (im.lastInode() + im.perG - 1) / im.perG
	return im.inodeTables() + groups*im.perG/inodesPerBlock
}

// place gives every inode its blocks.
func (im *Image) place() {
	at := im.contents()
	im.dirs = make([]uint32, im.groups)
	add := func(kind regionKind, i *Inode, count, logical uint32) uint32 {
		start := at
		if count > 0 {
			im.regions = append(im.regions, region{start, count, kind, logical, i})
		}
		at += count
		return start
	}
	im.each(func(i *Inode) error {
		if i.xattrsNeedBlock() {
			i.xattr = add(regionXattr, i, 1, 0)
		}
		i.tree = add(regionTree, i, i.treeBlocks(), 0)
		switch i.Mode & typeMask {
		case typeDir:
			im.dirs[(i.number-1)/im.perG]++
			i.data = add(regionDir, i, i.dataBlocks(), 0)
		case typeSymlink:
			i.data = add(regionTarget, i, i.dataBlocks(), 0)
		case typeRegular:
			if im.streamed(i) {
				return nil
			}
			i.data = at
			for _, r := range i.runs() {
				add(regionData, i, r.Count, r.First)
			}
		}
		return nil
	})
	if im.journal != nil {
		// Last, so that what is never read of it lies behind all that is.
		im.journal.data = add(regionJournal, im.journal, im.journal.dataBlocks(), 0)
	}
}

// runs returns the file's parts with data, all of it unless it has holes.
func (i *Inode) runs() []Run {
	if i.Holes || i.Mode&typeMask != typeRegular {
		return i.Data
	}
	if n := uint32((i.Size + BlockSize - 1) / BlockSize); n > 0 {
		return []Run{{0, n}}
	}
	return nil
}

func (i *Inode) checkRuns() error {
	if i.Size < 0 || i.Size > maxBlocks*BlockSize {
		return fmt.Errorf("laying out ext4: %s: size %d is beyond ext4's limit", i.Path, i.Size)
	}
	end, last := int64(0), (i.Size+BlockSize-1)/BlockSize
	for _, r := range i.runs() {
		if int64(r.First) < end || r.Count == 0 || int64(r.First)+int64(r.Count) > last {
			return fmt.Errorf("laying out ext4: %s: runs of data overlap or exceed the file", i.Path)
		}
		end = int64(r.First) + int64(r.Count)
	}
	return nil
}

// dataBlocks counts the blocks of contents without the extent tree.
func (i *Inode) dataBlocks() uint32 {
	switch i.Mode & typeMask {
	case typeDir:
		return uint32(len(i.dirBlocks))
	case typeSymlink:
		if len(i.Target) < fastSymlink {
			return 0
		}
		return 1
	}
	n := uint32(0)
	for _, r := range i.runs() {
		n += r.Count
	}
	return n
}

// packDir notes which entry begins each block of the directory. Two entries,
// "." and "..", come before the first.
func (i *Inode) packDir() {
	i.dirBlocks = []int32{0}
	left := BlockSize - dirTail - 24
	for n, e := range i.Entries {
		size := entrySize(e.Name)
		if size > left {
			i.dirBlocks = append(i.dirBlocks, int32(n))
			left = BlockSize - dirTail
		}
		left -= size
	}
}

func entrySize(name string) int { return (8 + len(name) + 3) &^ 3 }
