package cryptsetup

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/secret"
)

// libcryptsetup makes authenticated mappings from LUKS2 headers alone, which are
// never read here. So these go through the device-mapper's own interface.

// An Integrity is one dm-integrity mapping that stores tags for the mapping
// above it, with direct writes.
type Integrity struct {
	Name              string // device name under /dev/mapper
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

// OpenIntegrity activates i and returns the path of its device.
func OpenIntegrity(i Integrity) (string, error) {
	params := fmt.Sprintf("%s 0 %d D 5 block_size:%d journal_sectors:%d interleave_sectors:%d buffer_sectors:%d fix_padding",
		i.Device, i.TagSize, i.SectorSize, i.JournalSectors, i.InterleaveSectors, bufferSectors)
	return activate(i.Name, target{"integrity", i.Size, []byte(params)})
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

// OpenAuthenticated activates a and returns the path of its device. Copies of
// the key are overwritten, the kernel's of the command included.
func OpenAuthenticated(a Authenticated) (string, error) {
	head := "capi:authenc(hmac(sha256),xts(aes))-random "
	tail := fmt.Sprintf(" 0 %s 0 2 integrity:%d:aead sector_size:%d", a.Device, a.TagSize, a.SectorSize)
	params := secret.Alloc(len(head) + hex.EncodedLen(a.Key.Len()) + len(tail))
	defer params.Wipe()
	b := append(params.Reveal()[:0], head...)
	b = hex.AppendEncode(b, a.Key.Reveal())
	b = append(b, tail...)
	return activate(a.Name, target{"crypt", a.Size, b})
}

// Remove takes away a mapping that OpenIntegrity or OpenAuthenticated made. udev
// may have it open for a moment. The error wraps ErrBusy or ErrNotActive where
// that is the cause.
func Remove(name string) error {
	serial.Lock()
	defer serial.Unlock()
	err := remove(name)
	for range 100 {
		if !errors.Is(err, ErrBusy) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		err = remove(name)
	}
	return err
}

// Path is that of a mapping's device, which the kernel itself makes, without udev.
func Path(name string) (string, error) {
	reply, err := command(dmDevStatus, name, 0, nil)
	if errors.Is(err, unix.ENXIO) {
		err = ErrNotActive
	}
	if err != nil {
		return "", fmt.Errorf("device of mapping %s: %w", name, err)
	}
	return reply.path(), nil
}

// path is the device that an answer is about.
func (m message) path() string {
	return "/dev/dm-" + strconv.FormatUint(uint64(unix.Minor(binary.NativeEndian.Uint64(m[40:]))), 10)
}

// A target fills a whole mapping.
type target struct {
	kind   string
	size   uint64 // 512-byte units
	params []byte
}

// activate makes a mapping, or leaves nothing.
func activate(name string, t target) (path string, err error) {
	serial.Lock()
	defer serial.Unlock()
	if strings.Contains(name, "/") || t.size == 0 {
		return "", fmt.Errorf("mapping %q of %d sectors is refused", name, t.size)
	}
	reply, err := command(dmDevCreate, name, 0, nil)
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("mapping %s by dm-%s: %w", name, t.kind, err), remove(name))
		}
	}()
	spec := make([]byte, dmTarget+(len(t.params)+8)/8*8)
	defer clear(spec)
	binary.NativeEndian.PutUint64(spec[8:], t.size)
	copy(spec[24:], t.kind)
	copy(spec[dmTarget:], t.params)
	loaded, err := command(dmTableLoad, name, dmSecureData, spec)
	clear(loaded)
	if err != nil {
		return "", err
	}
	// Without the flag for suspending, this puts the table in use.
	if _, err := command(dmDevSuspend, name, 0, nil); err != nil {
		return "", err
	}
	return reply.path(), nil
}
