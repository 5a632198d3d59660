// Package luks2 writes, reads and changes the headers of LUKS2 volumes, without
// root, kernel or cgo, so that cryptsetup opens what it writes and it opens what
// cryptsetup writes by default.
//
// Changes to keyslots survive a crash at any moment: a new keyslot's area is on
// disk before a header points to it, one copy of the header is whole at any
// time, and the area of a replaced keyslot is overwritten last.
//
// It reads with strict rules and bounded costs, for the file may come from an
// attacker; it uses the secondary header when the primary is damaged. It
// refuses null ciphers, every cipher but aes-xts-plain64 and, with HMAC-SHA256,
// aes-xts-random, more than one segment, re-encryption in progress and key
// derivations that would exhaust memory.
//
// It says nothing about the payload's truth: whoever can write the file can
// swap the header. Code that opens volumes uses pinned parameters and a known
// volume key instead (package volume); the header serves their owner, who has
// the file and a key and no manifest.
package luks2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"cloister/secret"
)

// Geometry of the headers that Encode writes.
const (
	// PayloadOffset is where the payload begins: two headers of 16 KiB, then
	// room for three keyslots, ended at cryptsetup's alignment of 1 MiB.
	// (cryptsetup's own default of 16 MiB leaves room for 32.)
	PayloadOffset = 1 << 20
	// SectorSize is the encryption sector, in bytes.
	SectorSize = 4096
	// VolumeKeySize is that of AES-256-XTS, in bytes.
	VolumeKeySize = 64
	// AuthenticatedKeySize is that of an authenticated volume, in bytes: 32 for
	// HMAC-SHA256 follow.
	AuthenticatedKeySize = 96
	// KeyslotKeySize is that of the generated key for the keyslot, in bytes.
	KeyslotKeySize = 32

	headerSize = 16 << 10
	saltSize   = 32
	maxLabel   = labelSize - 1
)

// ErrWrongKey says that no keyslot opens with the given key.
var ErrWrongKey = errors.New("no keyslot opens with this key")

// Keyslot is what a header says about one keyslot.
type Keyslot struct {
	ID      int
	KeySize int // bytes
	KDF     KDF
	Bound   bool // it holds the key of the volume, not of something else
}

// Header holds the facts of a validated header. None of them is secret or
// authenticated.
type Header struct {
	Label         string
	UUID          string
	Sequence      uint64
	FromSecondary bool // the primary header was damaged or older
	Cipher        string
	SectorSize    int   // bytes
	PayloadOffset int64 // bytes
	PayloadSize   int64 // bytes, with tags; for a dynamic segment, up to the file's end
	Authenticated bool  // by HMAC-SHA256, with a key of AuthenticatedKeySize
	Keyslots      []Keyslot
	Tokens        int
	// Primary and Secondary tell why that copy of the header does not count;
	// nil if it is whole and says the same as the other.
	Primary, Secondary error

	disk *onDisk
}

// Read reads and validates the header of a volume of size bytes. Of two valid
// copies the one with the higher sequence number counts. A file with neither
// magic gives ErrNotLUKS2.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	best, h, err := readBest(r, size)
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS2 header: %w", err)
	}
	seg := best.meta.Segments["0"]
	length, err := best.meta.segmentSize(size)
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS2 header: %w", err)
	}
	h.Label, h.UUID, h.Sequence, h.Tokens = best.label, best.uuid, best.seqID, len(best.meta.Tokens)
	h.Cipher, h.SectorSize, h.PayloadOffset, h.PayloadSize = seg.Encryption, seg.SectorSize, int64(seg.Offset), length
	h.Authenticated = seg.Integrity != nil
	h.disk = best
	order, err := ids(best.meta.Keyslots)
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS2 header: keyslot %w", err)
	}
	bound := best.meta.segmentDigest().Keyslots
	for _, id := range order {
		n, err := decimal(id)
		if err != nil {
			return nil, err
		}
		k := best.meta.Keyslots[id]
		h.Keyslots = append(h.Keyslots, Keyslot{int(n), k.KeySize, k.KDF.costs(), slices.Contains(bound, id)})
	}
	return h, nil
}

// readBest finds the copy that counts and says what is wrong with the other.
func readBest(r io.ReaderAt, size int64) (*onDisk, *Header, error) {
	h := &Header{}
	first, err := readValid(r, 0, size)
	h.Primary = err
	offsets := headerSizes
	if first != nil {
		offsets = []int64{first.size}
	}
	var second *onDisk
	h.Secondary = ErrNotLUKS2
	for _, at := range offsets {
		second, err = readValid(r, at, size)
		if second != nil || errors.Is(h.Secondary, ErrNotLUKS2) {
			h.Secondary = err // of several that are damaged, the first
		}
		if second != nil {
			break
		}
	}
	switch {
	case first == nil && second == nil:
		if errors.Is(h.Primary, ErrNotLUKS2) && !errors.Is(h.Secondary, ErrNotLUKS2) {
			return nil, nil, fmt.Errorf("secondary header: %w", h.Secondary)
		}
		return nil, nil, h.Primary
	case first == nil:
		h.FromSecondary = true
		return second, h, nil
	case second == nil:
		return first, h, nil
	case second.seqID > first.seqID:
		h.FromSecondary = true
		h.Primary = fmt.Errorf("older than the other: sequence number %d, the other has %d", first.seqID, second.seqID)
		return second, h, nil
	case second.seqID < first.seqID:
		h.Secondary = fmt.Errorf("older than the other: sequence number %d, the other has %d", second.seqID, first.seqID)
	case !bytes.Equal(first.text, second.text) || first.label != second.label || first.uuid != second.uuid || first.subsystem != second.subsystem:
		h.Secondary = errors.New("differs from the primary header with the same sequence number")
	}
	return first, h, nil
}

func readValid(r io.ReaderAt, at, size int64) (*onDisk, error) {
	d, err := readCopy(r, at)
	if err != nil {
		return nil, err
	}
	if err := d.validate(size); err != nil {
		return nil, err
	}
	return d, nil
}

// Unlock tries the key or passphrase on every keyslot bound to the segment
// and returns the volume key, or ErrWrongKey. Each try costs one key
// derivation, within the limits of this package.
func (h *Header) Unlock(r io.ReaderAt, passphrase secret.Bytes) (secret.Bytes, error) {
	key, _, err := h.UnlockedBy(r, passphrase)
	return key, err
}

// UnlockedBy is Unlock and also returns the number of the keyslot that opened.
func (h *Header) UnlockedBy(r io.ReaderAt, passphrase secret.Bytes) (secret.Bytes, int, error) {
	m := h.disk.meta
	d := m.segmentDigest()
	for _, id := range d.Keyslots {
		slot := m.Keyslots[id]
		if slot.Priority != nil && *slot.Priority == 0 {
			continue // "ignore": used only when asked for by number
		}
		key, err := slot.open(r, passphrase)
		if err != nil {
			return secret.Bytes{}, 0, fmt.Errorf("unlocking keyslot %s: %w", id, err)
		}
		ok, err := d.matches(key)
		if ok && err == nil {
			n, err := decimal(id)
			return key, int(n), err
		}
		key.Wipe()
		if err != nil {
			return secret.Bytes{}, 0, fmt.Errorf("unlocking keyslot %s: %w", id, err)
		}
	}
	return secret.Bytes{}, 0, ErrWrongKey
}

// CheckVolumeKey reports whether key is the volume key of this header.
func (h *Header) CheckVolumeKey(key secret.Bytes) (bool, error) {
	return h.disk.meta.segmentDigest().matches(key)
}
