package devicemapper

import (
	"fmt"
	"strings"

	"cloister/secret"
)

// An Integrity is one dm-integrity mapping that stores tags for the mapping
// above it, through its journal.
type Integrity struct {
	Name              string // the mapping's name
	Device            string // path of the block device below, superblock first
	Size              uint64 // of what is mapped, in 512-byte units
	TagSize           int    // bytes
	SectorSize        int    // bytes
	JournalSectors    int    // 512-byte units
	InterleaveSectors int    // 512-byte units
}

// bufferSectors is one page, in 512-byte units. With the kernel's default of 128
// (64 KiB), tag buffers over a loop device with direct I/O on NFS were seen to
// corrupt memory: docs/findings.md.
const bufferSectors = 8

// OpenIntegrity maps i and returns the path of its device. The kernel reads the
// superblock, in which somebody may have put another geometry since it was
// written: then there is no mapping.
func OpenIntegrity(i Integrity) (string, error) {
	below, err := number(i.Device)
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", i.Name, err)
	}
	// Documentation/admin-guide/device-mapper/dm-integrity.rst
	options := []string{
		fmt.Sprintf("block_size:%d", i.SectorSize), fmt.Sprintf("journal_sectors:%d", i.JournalSectors),
		fmt.Sprintf("interleave_sectors:%d", i.InterleaveSectors), fmt.Sprintf("buffer_sectors:%d", bufferSectors), "fix_padding",
	}
	parameters := fmt.Sprintf("%s 0 %d J %d %s", below, i.TagSize, len(options), strings.Join(options, " "))
	return activate(mapping{name: i.Name, uuid: "CRYPT-INTEGRITY-" + i.Name, target: "integrity",
		sectors: i.Size, parameters: []byte(parameters), stated: options})
}

// An Authenticated is one dm-crypt mapping with AES-256-XTS under random IVs and
// HMAC-SHA256, over a mapping that stores its tags.
type Authenticated struct {
	Name       string
	Device     string       // path of the dm-integrity device
	Size       uint64       // 512-byte units
	Key        secret.Bytes // 96 bytes: AES-256-XTS, then HMAC-SHA256
	SectorSize int          // bytes
	TagSize    int          // bytes
}

// OpenAuthenticated maps a and returns the path of its device. Copies of the key
// are overwritten, the kernel's of the command included.
func OpenAuthenticated(a Authenticated) (string, error) {
	below, err := number(a.Device)
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", a.Name, err)
	}
	return openCrypt(mapping{name: a.Name, sectors: a.Size}, "capi:authenc(hmac(sha256),xts(aes))-random", a.Key,
		fmt.Sprintf(" 0 %s 0 2 integrity:%d:aead sector_size:%d", below, a.TagSize, a.SectorSize))
}
