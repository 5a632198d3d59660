// Package luks2 writes and reads the headers of LUKS2 volumes, without root,
// kernel or cgo, so that cryptsetup opens what it writes and it opens what
// cryptsetup writes by default.
//
// It reads with strict rules and bounded costs, for the file may come from an
// attacker; it uses the secondary header when the primary is damaged. It
// refuses null ciphers, every cipher but aes-xts-plain64, more than one
// segment, integrity segments, re-encryption in progress and key derivations
// that would exhaust memory.
//
// It says nothing about the payload's truth: whoever can write the file can
// swap the header. Code that opens volumes uses pinned parameters and a known
// volume key instead (package volume); the header serves their owner, who has
// the file and a key and no manifest.
package luks2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cloister/secret"

	"golang.org/x/crypto/pbkdf2"
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
	// KeyslotKeySize is that of the generated key for the keyslot, in bytes.
	KeyslotKeySize = 32

	headerSize  = 16 << 10
	areaSize    = 258048 // 64 × 4000 bytes, rounded up to 4096
	saltSize    = 32
	maxLabel    = labelSize - 1
	encodedSize = 2*headerSize + areaSize
)

// ErrWrongKey says that no keyslot opens with the given key.
var ErrWrongKey = errors.New("no keyslot opens with this key")

// Params describes a volume to be made.
type Params struct {
	Label string // at most 47 bytes of printable text, may be empty
	UUID  string // lower case, with dashes
	// PayloadSize is the fixed length of the segment in bytes, a multiple of
	// SectorSize. Zero means that it reaches to the file's end.
	PayloadSize int64
}

// Encode returns the bytes that begin a new volume: both headers and one
// keyslot, less than PayloadOffset, where the payload begins. rand must be
// crypto/rand.Reader outside tests.
//
// keyslotKey must be 256 random bits. Key derivation exists to make guessing
// a passphrase costly; nobody guesses 256 random bits, so the keyslot uses
// pbkdf2 with the lowest count that cryptsetup accepts, and opening is quick.
func Encode(rand io.Reader, p Params, volumeKey, keyslotKey secret.Bytes) ([]byte, error) {
	if volumeKey.Len() != VolumeKeySize || keyslotKey.Len() != KeyslotKeySize {
		return nil, fmt.Errorf("making a LUKS2 header: keys of %d and %d bytes, want %d and %d", volumeKey.Len(), keyslotKey.Len(), VolumeKeySize, KeyslotKeySize)
	}
	if err := ValidUUID(p.UUID); err != nil {
		return nil, fmt.Errorf("making a LUKS2 header: %w", err)
	}
	if len(p.Label) > maxLabel {
		return nil, fmt.Errorf("making a LUKS2 header: label is longer than %d bytes", maxLabel)
	}
	if err := printable(p.Label); err != nil {
		return nil, fmt.Errorf("making a LUKS2 header: label: %w", err)
	}
	if p.PayloadSize < 0 || p.PayloadSize%SectorSize != 0 || p.PayloadSize > maxDevice {
		return nil, fmt.Errorf("making a LUKS2 header: payload of %d bytes is no whole number of sectors", p.PayloadSize)
	}
	salts := make([]byte, 2*saltSize+2*64)
	if _, err := io.ReadFull(rand, salts); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	size := "dynamic"
	if p.PayloadSize > 0 {
		size = fmt.Sprint(p.PayloadSize)
	}
	slot := keyslot{
		Type: "luks2", KeySize: VolumeKeySize,
		AF:   af{Type: "luks1", Stripes: afStripes, Hash: "sha256"},
		Area: area{Type: "raw", Offset: 2 * headerSize, Size: areaSize, Encryption: cipherName, KeySize: 64},
		KDF:  kdf{Type: "pbkdf2", Salt: salts[:saltSize], Hash: "sha256", Iterations: MinIterations},
	}
	dig := digest{
		Type: "pbkdf2", Keyslots: []string{"0"}, Segments: []string{"0"},
		Hash: "sha256", Iterations: MinIterations, Salt: salts[saltSize : 2*saltSize],
	}
	h, err := hashByName(dig.Hash)
	if err != nil {
		return nil, err
	}
	dig.Digest = pbkdf2.Key(volumeKey.Reveal(), dig.Salt, MinIterations, 32, h)
	m := &metadata{
		Keyslots: map[string]keyslot{"0": slot},
		Tokens:   map[string]json.RawMessage{},
		Segments: map[string]segment{"0": {Type: "crypt", Offset: PayloadOffset, Size: size, Encryption: cipherName, SectorSize: SectorSize}},
		Digests:  map[string]digest{"0": dig},
		Config:   config{JSONSize: headerSize - binarySize, KeyslotsSize: PayloadOffset - 2*headerSize},
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("making a LUKS2 header: %w", err)
	}
	areaBytes, err := slot.seal(rand, volumeKey, keyslotKey)
	if err != nil {
		return nil, fmt.Errorf("making a LUKS2 keyslot: %w", err)
	}
	d := onDisk{size: headerSize, seqID: 1, label: p.Label, uuid: p.UUID, meta: m}
	out := make([]byte, 0, encodedSize)
	out = append(out, encodeCopy(d, text, salts[2*saltSize:2*saltSize+64], false)...)
	out = append(out, encodeCopy(d, text, salts[2*saltSize+64:], true)...)
	return append(out, areaBytes...), nil
}

// Keyslot is what a header says about one keyslot.
type Keyslot struct {
	ID      int
	KeySize int    // bytes
	KDF     string // argon2id, argon2i or pbkdf2
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
	PayloadSize   int64 // bytes; for a dynamic segment, up to the file's end
	Keyslots      []Keyslot

	disk *onDisk
}

// Read reads and validates the header of a volume of size bytes. Of two valid
// copies the one with the higher sequence number counts. A file with neither
// magic gives ErrNotLUKS2.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	best, err := readValid(r, 0, size)
	offsets := headerSizes
	if best != nil {
		offsets = []int64{best.size}
	}
	secondary := false
	for _, at := range offsets {
		second, err2 := readValid(r, at, size)
		switch {
		case err2 == nil && (best == nil || second.seqID > best.seqID):
			best, secondary = second, true
		case err2 != nil && !errors.Is(err2, ErrNotLUKS2) && errors.Is(err, ErrNotLUKS2):
			err = fmt.Errorf("secondary header: %w", err2)
		}
	}
	if best == nil {
		return nil, fmt.Errorf("reading the LUKS2 header: %w", err)
	}
	seg := best.meta.Segments["0"]
	length, err := best.meta.segmentSize(size)
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS2 header: %w", err)
	}
	h := &Header{
		Label: best.label, UUID: best.uuid, Sequence: best.seqID, FromSecondary: secondary,
		Cipher: seg.Encryption, SectorSize: seg.SectorSize, PayloadOffset: int64(seg.Offset), PayloadSize: length,
		disk: best,
	}
	order, err := ids(best.meta.Keyslots)
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS2 header: keyslot %w", err)
	}
	for _, id := range order {
		n, err := decimal(id)
		if err != nil {
			return nil, err
		}
		k := best.meta.Keyslots[id]
		h.Keyslots = append(h.Keyslots, Keyslot{int(n), k.KeySize, k.KDF.Type})
	}
	return h, nil
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
	m := h.disk.meta
	for _, d := range m.Digests {
		if len(d.Segments) == 0 {
			continue
		}
		for _, id := range d.Keyslots {
			slot := m.Keyslots[id]
			if slot.Priority != nil && *slot.Priority == 0 {
				continue // "ignore": used only when asked for by number
			}
			key, err := slot.open(r, passphrase)
			if err != nil {
				return secret.Bytes{}, fmt.Errorf("unlocking keyslot %s: %w", id, err)
			}
			ok, err := d.matches(key)
			if err != nil {
				key.Wipe()
				return secret.Bytes{}, fmt.Errorf("unlocking keyslot %s: %w", id, err)
			}
			if ok {
				return key, nil
			}
			key.Wipe()
		}
	}
	return secret.Bytes{}, ErrWrongKey
}

// CheckVolumeKey reports whether key is the volume key of this header.
func (h *Header) CheckVolumeKey(key secret.Bytes) (bool, error) {
	for _, d := range h.disk.meta.Digests {
		if len(d.Segments) > 0 {
			return d.matches(key)
		}
	}
	return false, nil
}
