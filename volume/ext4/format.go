// Package ext4 lays out new ext4 file systems and reads existing ones, in
// memory bounded by the number of files, without root or a kernel.
//
// Writing is two steps: NewImage decides where every block goes, then
// Image.Fill produces any part of the image on demand, from many goroutines
// at once, so that the image itself never exists anywhere.
//
// The reader is for hostile images: every number is checked against its
// bounds, metadata checksums are checked where the file system has them, and
// directory loops and shared blocks are errors. What a journal that needs recovery
// holds counts over what lies in place, as the kernel would put it there.
// It refuses what it doesn't know (incompatible features, inline data,
// encrypted or case-folded directories, files mapped by block lists).
//
// The source of every offset and magic number is
// Documentation/filesystems/ext4 in the Linux kernel.
package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

// BlockSize is the size in bytes of the blocks that NewImage lays out and the
// only one that Open reads.
const BlockSize = 4096

var le = binary.LittleEndian

const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53

	blocksPerGroup = BlockSize * 8 // one bitmap block
	rootInode      = 2
	journalInode   = 8
	firstInode     = 11 // the first that is not reserved: lost+found
	maxNameLen     = 255
	linkMax        = 65000 // EXT4_LINK_MAX
)

// Feature flags, super.rst.
const (
	compatSparseSuper2 = 0x200
	compatHasJournal   = 0x4
	compatExtAttr      = 0x8
	compatDirIndex     = 0x20

	incompatFiletype = 0x2
	incompatRecover  = 0x4
	incompatExtents  = 0x40
	incompat64bit    = 0x80
	incompatFlexBG   = 0x200
	incompatCsumSeed = 0x2000
	incompatLargedir = 0x4000

	roCompatLargeFile    = 0x2
	roCompatHugeFile     = 0x8
	roCompatGDTCsum      = 0x10
	roCompatDirNlink     = 0x20
	roCompatExtraIsize   = 0x40
	roCompatMetadataCsum = 0x400
)

// Inode flags and types, inodes.rst.
const (
	flagIndex      = 0x1000
	flagEncrypt    = 0x800
	flagHugeFile   = 0x40000
	flagExtents    = 0x80000
	flagEAInode    = 0x200000
	flagInlineData = 0x10000000

	typeMask    = 0xF000
	typeFIFO    = 0x1000
	typeChar    = 0x2000
	typeDir     = 0x4000
	typeBlock   = 0x6000
	typeRegular = 0x8000
	typeSymlink = 0xA000
	typeSocket  = 0xC000
)

// Flags of a group descriptor, group_descr.rst.
const (
	groupInodeUninit = 0x1 // inode table and bitmap are not initialised
	groupBlockUninit = 0x2 // block bitmap is not initialised
	groupInodeZeroed = 0x4 // inode table is written, zeros included
)

const (
	extentMagic   = 0xF30A
	extentMaxInit = 32768 // blocks; a larger length means unwritten
	extentMaxDeep = 5
	xattrMagic    = 0xEA020000
	xattrUser     = 1 // name index of "user."
)

// dirFileType gives the file type byte of a directory entry.
func dirFileType(mode uint16) byte {
	switch mode & typeMask {
	case typeRegular:
		return 1
	case typeDir:
		return 2
	case typeChar:
		return 3
	case typeBlock:
		return 4
	case typeFIFO:
		return 5
	case typeSocket:
		return 6
	case typeSymlink:
		return 7
	}
	return 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is the kernel's crc32c: no inversion before or after.
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

func crc32le(seed, n uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], n)
	return crc(seed, b[:])
}

// inodeSeed begins the checksum of everything that belongs to an inode.
func inodeSeed(fsSeed, number, generation uint32) uint32 {
	return crc32le(crc32le(fsSeed, number), generation)
}

// inodeChecksum is the checksum of a raw inode of at least 160 bytes.
func inodeChecksum(fsSeed, number uint32, raw []byte) uint32 {
	var zero [2]byte
	c := inodeSeed(fsSeed, number, le.Uint32(raw[0x64:]))
	c = crc(c, raw[:0x7C])
	c = crc(c, zero[:])
	c = crc(c, raw[0x7E:0x82])
	c = crc(c, zero[:])
	return crc(c, raw[0x84:])
}

// descriptorChecksum is that of a raw group descriptor under metadata_csum.
func descriptorChecksum(fsSeed, group uint32, raw []byte) uint16 {
	var zero [2]byte
	c := crc(crc32le(fsSeed, group), raw[:0x1E])
	c = crc(c, zero[:])
	return uint16(crc(c, raw[0x20:]))
}

// xattrBlockChecksum is that of an extended attribute block at the given place.
func xattrBlockChecksum(fsSeed uint32, block int64, raw []byte) uint32 {
	var n [8]byte
	le.PutUint64(n[:], uint64(block))
	c := crc(crc(fsSeed, n[:]), raw[:0x10])
	c = crc(c, make([]byte, 4))
	return crc(c, raw[0x14:])
}
