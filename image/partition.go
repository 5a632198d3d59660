package image

import (
	"fmt"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// goArch maps a SIF header's architecture to Go's name, from the sif module's
// arch.go, for those that Apptainer is built for.
var goArch = map[string]string{"01\x00": "386", "02\x00": "amd64", "04\x00": "arm64", "06\x00": "ppc64le", "11\x00": "s390x", "12\x00": "riscv64"}

// fsGocryptfs is a squashfs of gocryptfs's encrypted files: what apptainer build
// --encrypt makes of an ordinary user's image, and opens without privileges. The
// number is from apptainer's fork of the sif module, which alone knows it.
const fsGocryptfs sif.FSType = 6

// superblock is the beginning of a squashfs 4.0 file system, as the kernel's
// fs/squashfs/squashfs_fs.h has it.
type superblock struct {
	Magic     [4]byte // "hsqs": little-endian
	_         [24]byte
	Major     uint16
	Minor     uint16
	Root      uint64
	BytesUsed uint64
	_         [48]byte
}

// superblockSize in bytes, and the smallest squashfs.
const superblockSize = 96

// primaryPartition finds the one primary system partition and checks that it
// is what the container runtime will take it for.
func (l *layout) primaryPartition(arch string) (Partition, error) {
	var found *object
	for i := range l.objects {
		if _, kind, _, ok := l.objects[i].partition(); ok && kind == sif.PartPrimSys {
			if found != nil {
				return Partition{}, fmt.Errorf("%w: objects %d and %d are both primary partitions", ErrMalformed, found.ID, l.objects[i].ID)
			}
			found = &l.objects[i]
		}
	}
	if found == nil {
		return Partition{}, ErrNoPartition
	}
	fs, _, partArch, _ := found.partition()
	if fs == sif.FsEncryptedSquashfs {
		return Partition{}, ErrEncrypted
	}
	if fs != sif.FsSquash && fs != fsGocryptfs {
		return Partition{}, fmt.Errorf("%w: it is %s", ErrFileSystem, fs)
	}
	// No signature covers the header's architecture: compare it with the
	// partition's, which is covered.
	if partArch != l.header.Arch {
		return Partition{}, fmt.Errorf("%w: the header and the partition name different architectures", ErrAltered)
	}
	if got := goArch[string(partArch[:])]; got != arch {
		if got == "" {
			got = fmt.Sprintf("unknown (%q)", partArch[:2])
		}
		return Partition{}, fmt.Errorf("%w: it is for %s, the nodes are %s", ErrArchitecture, got, arch)
	}
	// squashfuse is told where the partition begins but not where it ends, so
	// tables beyond its end would be read from bytes that nobody signed.
	var sb superblock
	if found.Size < superblockSize {
		return Partition{}, fmt.Errorf("%w: it has %d bytes", ErrFileSystem, found.Size)
	}
	if err := readStruct(l.snapshot(), found.Offset, l.size, superblockSize, &sb); err != nil {
		return Partition{}, fmt.Errorf("reading the partition's superblock: %w", err)
	}
	if string(sb.Magic[:]) != "hsqs" || sb.Major != 4 || sb.Minor != 0 {
		return Partition{}, fmt.Errorf("%w: it does not begin as squashfs 4.0", ErrFileSystem)
	}
	if sb.BytesUsed < superblockSize || sb.BytesUsed > uint64(found.Size) {
		return Partition{}, fmt.Errorf("%w: it claims %d bytes, the partition has %d", ErrFileSystem, sb.BytesUsed, found.Size)
	}
	return Partition{ID: found.ID, Offset: found.Offset, Size: found.Size}, nil
}
