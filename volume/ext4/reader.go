package ext4

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of what the reader takes on.
const (
	maxGroups    = 1 << 20 // 128 TiB
	maxInodeSize = BlockSize
	minInodeSize = 256  // mke2fs's default
	cacheBlocks  = 1024 // metadata blocks kept, so 4 MiB

	supportedIncompat = incompatFiletype | incompatExtents | incompat64bit | incompatFlexBG | incompatCsumSeed | incompatLargedir
)

var incompatNames = map[uint32]string{
	0x1: "compression", 0x8: "journal device", 0x10: "meta_bg", 0x100: "mmp", 0x400: "ea_inode",
	0x1000: "dirdata", 0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold",
}

// ErrNeedsRecovery says that the file system was not cleanly unmounted, and that
// its journal is of a kind that this reader doesn't apply.
var ErrNeedsRecovery = errors.New("the journal needs recovery: the volume was not cleanly unmounted")

// FS reads one file system. It is not safe for concurrent use.
type FS struct {
	r         io.ReaderAt
	blocks    int64
	inodes    uint32
	perG      uint32
	inodeSize int64
	tables    []int64 // first block of each group's inode table
	csum      bool
	seed      uint32
	cache     map[int64][]byte
	claimed   int64 // blocks that files and directories mapped so far
	recovers  bool  // the journal counts
	replayed  *overlay
}

// Open reads and checks the super block and the group descriptors of the file
// system that fills the first bytes of r; size is the length of r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	fs, err := open(r, size)
	if err != nil || !fs.recovers {
		return fs, err
	}
	o, err := fs.replay()
	if err != nil {
		return nil, err
	}
	if fs, err = open(o, size); err != nil {
		return nil, err
	}
	fs.replayed = o
	return fs, nil
}

func open(r io.ReaderAt, size int64) (*FS, error) {
	fs := &FS{r: r, cache: map[int64][]byte{}}
	if err := fs.readSuper(size); err != nil {
		return nil, fmt.Errorf("reading the ext4 super block: %w", err)
	}
	return fs, nil
}

func (fs *FS) readSuper(size int64) error {
	b := make([]byte, superSize)
	if _, err := io.ReadFull(io.NewSectionReader(fs.r, superOffset, superSize), b); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if le.Uint16(b[0x38:]) != superMagic {
		return errors.New("no ext4 file system (wrong key, or contents of another kind)")
	}
	incompat, ro := le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	fs.csum = ro&roCompatMetadataCsum != 0
	if fs.csum {
		if b[0x175] != 1 {
			return fmt.Errorf("checksum type %d is not supported", b[0x175])
		}
		if le.Uint32(b[0x3FC:]) != crc(^uint32(0), b[:0x3FC]) {
			return errors.New("checksum does not match")
		}
	}
	fs.recovers = incompat&incompatRecover != 0
	if unknown := incompat &^ (supportedIncompat | incompatRecover); unknown != 0 {
		bit := unknown & -unknown
		return fmt.Errorf("feature %s (%#x) is not supported", incompatNames[bit], bit)
	}
	if incompat&incompatExtents == 0 || incompat&incompatFiletype == 0 {
		return errors.New("without extents and file types: only ext4 is read, not ext2 or ext3")
	}
	if le.Uint32(b[0x4C:]) != 1 || le.Uint32(b[0x18:]) != 2 || le.Uint32(b[0x14:]) != 0 {
		return errors.New("only 4096-byte blocks are supported")
	}
	fs.blocks = int64(le.Uint32(b[0x4:]))
	descSize := int64(32)
	if incompat&incompat64bit != 0 {
		if le.Uint32(b[0x150:]) > 1<<16 {
			return errors.New("block count is out of bounds")
		}
		fs.blocks |= int64(le.Uint32(b[0x150:])) << 32
		if descSize = int64(le.Uint16(b[0xFE:])); descSize != 64 {
			return fmt.Errorf("group descriptors of %d bytes are not supported", descSize)
		}
	}
	if fs.blocks < 2 || fs.blocks > size/BlockSize {
		return fmt.Errorf("%d blocks do not fit a volume of %d bytes", fs.blocks, size)
	}
	fs.inodes, fs.perG = le.Uint32(b[0:]), le.Uint32(b[0x28:])
	fs.inodeSize = int64(le.Uint16(b[0x58:]))
	if fs.inodeSize < minInodeSize || fs.inodeSize > maxInodeSize || fs.inodeSize&(fs.inodeSize-1) != 0 {
		return fmt.Errorf("inodes of %d bytes are not supported", fs.inodeSize)
	}
	if le.Uint32(b[0x20:]) != blocksPerGroup {
		return fmt.Errorf("%d blocks per group are not supported", le.Uint32(b[0x20:]))
	}
	groups := (fs.blocks + blocksPerGroup - 1) / blocksPerGroup
	if groups > maxGroups || fs.perG == 0 || fs.perG > maxPerGroup || int64(fs.perG)*groups != int64(fs.inodes) {
		return fmt.Errorf("%d groups of %d inodes do not fit %d inodes", groups, fs.perG, fs.inodes)
	}
	fs.seed = crc(^uint32(0), b[0x68:0x78])
	if incompat&incompatCsumSeed != 0 {
		fs.seed = le.Uint32(b[0x270:])
	}
	return fs.readDescriptors(groups, descSize)
}

func (fs *FS) readDescriptors(groups, descSize int64) error {
	gdt := make([]byte, groups*descSize)
	if 1+(int64(len(gdt))+BlockSize-1)/BlockSize > fs.blocks {
		return errors.New("group descriptors do not fit")
	}
	if _, err := io.ReadFull(io.NewSectionReader(fs.r, BlockSize, int64(len(gdt))), gdt); err != nil {
		return fmt.Errorf("reading group descriptors: %w", err)
	}
	tableBlocks := (int64(fs.perG)*fs.inodeSize + BlockSize - 1) / BlockSize
	for g := range groups {
		d := gdt[g*descSize:][:descSize]
		if fs.csum && le.Uint16(d[0x1E:]) != descriptorChecksum(fs.seed, uint32(g), d) {
			return fmt.Errorf("group %d: descriptor checksum does not match", g)
		}
		table := int64(le.Uint32(d[0x8:]))
		if descSize == 64 {
			table |= int64(le.Uint32(d[0x28:])) << 32
		}
		if table < 1 || table > fs.blocks-tableBlocks {
			return fmt.Errorf("group %d: inode table lies outside the file system", g)
		}
		fs.tables = append(fs.tables, table)
	}
	return nil
}

// block returns a metadata block, which the caller must not change.
func (fs *FS) block(n int64) ([]byte, error) {
	if n < 0 || n >= fs.blocks {
		return nil, fmt.Errorf("block %d lies outside the file system", n)
	}
	if b := fs.cache[n]; b != nil {
		return b, nil
	}
	b := make([]byte, BlockSize)
	if _, err := io.ReadFull(io.NewSectionReader(fs.r, n*BlockSize, BlockSize), b); err != nil {
		return nil, fmt.Errorf("reading block %d: %w", n, err)
	}
	if len(fs.cache) >= cacheBlocks {
		for k := range fs.cache { // any: reads are mostly sequential
			delete(fs.cache, k)
			break
		}
	}
	fs.cache[n] = b
	return b, nil
}

// claim counts blocks that an inode maps. In a sound file system no block
// belongs to two, so more than all is a sign of a crafted one that would
// unpack to far more than its size.
func (fs *FS) claim(n int64) error {
	fs.claimed += n
	if fs.claimed > fs.blocks {
		return errors.New("files share blocks: the file system is damaged")
	}
	return nil
}

// A File is an inode as it was read.
type File struct {
	Number  uint32
	Mode    uint16 // type and permission bits
	Size    int64  // bytes
	Links   int
	Seconds int64 // modification time since 1970
	Nanos   uint32

	fs    *FS
	flags uint32
	seed  uint32
	raw   []byte
}

// IsDir, IsRegular and IsSymlink tell the type.
func (f *File) IsDir() bool     { return f.Mode&typeMask == typeDir }
func (f *File) IsRegular() bool { return f.Mode&typeMask == typeRegular }
func (f *File) IsSymlink() bool { return f.Mode&typeMask == typeSymlink }

// Perm is the permission bits without setuid, setgid and sticky.
func (f *File) Perm() uint32 { return uint32(f.Mode & 0o777) }

// TypeName is for messages about files that are none of the three.
func (f *File) TypeName() string {
	switch f.Mode & typeMask {
	case typeFIFO:
		return "FIFO"
	case typeChar:
		return "character device"
	case typeBlock:
		return "block device"
	case typeSocket:
		return "socket"
	}
	return "file of unknown type"
}

// Inode reads inode n, which must be the root or not reserved.
func (fs *FS) Inode(n uint32) (*File, error) {
	f, err := fs.inode(n)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", n, err)
	}
	return f, nil
}

func (fs *FS) inode(n uint32) (*File, error) {
	if n != rootInode && n < firstInode {
		return nil, errors.New("number is out of bounds")
	}
	return fs.anyInode(n)
}

// anyInode reads also a reserved one.
func (fs *FS) anyInode(n uint32) (*File, error) {
	if n > fs.inodes {
		return nil, errors.New("number is out of bounds")
	}
	g, k := (n-1)/fs.perG, int64((n-1)%fs.perG)
	b, err := fs.block(fs.tables[g] + k*fs.inodeSize/BlockSize)
	if err != nil {
		return nil, err
	}
	raw := append([]byte(nil), b[k*fs.inodeSize%BlockSize:][:fs.inodeSize]...)
	if le.Uint16(raw[0x1A:]) == 0 {
		return nil, errors.New("is in a directory, but deleted")
	}
	extra := int64(le.Uint16(raw[0x80:]))
	if extra < 24 || extra%4 != 0 || extra > fs.inodeSize-128 {
		return nil, fmt.Errorf("extra size %d is out of bounds", extra)
	}
	if fs.csum {
		want := uint32(le.Uint16(raw[0x7C:])) | uint32(le.Uint16(raw[0x82:]))<<16
		if inodeChecksum(fs.seed, n, raw) != want {
			return nil, errors.New("checksum does not match")
		}
	}
	f := &File{
		Number: n, Mode: le.Uint16(raw[0:]), Links: int(le.Uint16(raw[0x1A:])),
		Size: int64(uint64(le.Uint32(raw[0x4:])) | uint64(le.Uint32(raw[0x6C:]))<<32),
		fs:   fs, flags: le.Uint32(raw[0x20:]), raw: raw,
	}
	x := le.Uint32(raw[0x88:])
	f.Seconds, f.Nanos = int64(int32(le.Uint32(raw[0x10:])))+int64(x&3)<<32, x>>2
	f.seed = inodeSeed(fs.seed, n, le.Uint32(raw[0x64:]))
	switch {
	case f.Nanos >= 1e9:
		return nil, errors.New("modification time is out of bounds")
	case f.Size < 0 || f.Size > 1<<44:
		return nil, errors.New("size is out of bounds")
	case f.flags&(flagEncrypt|flagInlineData|flagEAInode) != 0:
		return nil, fmt.Errorf("flags %#x (encrypted, inline data or attribute inode) are not supported", f.flags)
	case f.IsDir() && (f.Size == 0 || f.Size%BlockSize != 0 || f.Size/BlockSize > fs.blocks):
		return nil, errors.New("directory size is out of bounds")
	case f.IsSymlink() && (f.Size == 0 || f.Size >= BlockSize):
		return nil, errors.New("symbolic link is empty or too long")
	}
	return f, nil
}

// Readlink returns where a symbolic link points. It may be any string without
// a zero byte; the caller must not follow it.
func (f *File) Readlink() (string, error) {
	target := make([]byte, f.Size)
	if f.flags&flagExtents == 0 {
		if f.Size >= fastSymlink {
			return "", fmt.Errorf("inode %d: symbolic link of %d bytes without extents", f.Number, f.Size)
		}
		copy(target, f.raw[0x28:])
	} else {
		ex, err := f.Extents()
		if err != nil {
			return "", err
		}
		if len(ex) != 1 || ex[0].Logical != 0 || ex[0].Count != 1 {
			return "", fmt.Errorf("inode %d: symbolic link is not in one block", f.Number)
		}
		b, err := f.fs.block(ex[0].Physical)
		if err != nil {
			return "", err
		}
		copy(target, b)
	}
	if s := string(target); !strings.Contains(s, "\x00") {
		return s, nil
	}
	return "", fmt.Errorf("inode %d: symbolic link holds a zero byte", f.Number)
}

// Root reads the root directory.
func (fs *FS) Root() (*File, error) { return fs.Inode(rootInode) }
