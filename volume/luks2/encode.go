package luks2

import (
	"encoding/json"
	"fmt"
	"io"

	"cloister/secret"

	"golang.org/x/crypto/pbkdf2"
)

// Params describes a volume to be made.
type Params struct {
	Label string // at most 47 bytes of printable text, may be empty
	UUID  string // lower case, with dashes
	// PayloadSize is the fixed length of the segment in bytes, a multiple of
	// SectorSize. Zero means that it reaches to the file's end.
	PayloadSize int64
	// Authenticated is for a payload with dm-integrity's tags of HMAC-SHA256. The
	// volume key then has AuthenticatedKeySize bytes.
	Authenticated bool
}

func (p Params) segment() segment {
	s := segment{Type: "crypt", Offset: PayloadOffset, Size: "dynamic", Encryption: cipherName, SectorSize: SectorSize}
	if p.PayloadSize > 0 {
		s.Size = fmt.Sprint(p.PayloadSize)
	}
	if p.Authenticated {
		s.Encryption, s.Integrity = authenticatedCipher, &hmacSHA256
	}
	return s
}

// Encode returns the bytes that begin a new volume: both headers and one
// keyslot, less than PayloadOffset, where the payload begins. rand must be
// crypto/rand.Reader outside tests.
//
// keyslotKey must be 256 random bits: the keyslot's derivation is RandomKey.
func Encode(rand io.Reader, p Params, volumeKey, keyslotKey secret.Bytes) ([]byte, error) {
	seg := p.segment()
	if volumeKey.Len() != seg.keySize() || keyslotKey.Len() != KeyslotKeySize {
		return nil, fmt.Errorf("making a LUKS2 header: keys of %d and %d bytes, want %d and %d", volumeKey.Len(), keyslotKey.Len(), seg.keySize(), KeyslotKeySize)
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
	salts := make([]byte, 2*saltSize+2*saltInHeader)
	if _, err := io.ReadFull(rand, salts); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	slot := newKeyslot(volumeKey.Len(), 2*headerSize, RandomKey.withSalt(salts[:saltSize]))
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
		Segments: map[string]segment{"0": seg},
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
	d := onDisk{size: headerSize, seqID: 1, label: p.Label, uuid: p.UUID, meta: m, text: text}
	out := make([]byte, 0, 2*headerSize+len(areaBytes))
	out = append(out, encodeCopy(d, salts[2*saltSize:2*saltSize+saltInHeader], false)...)
	out = append(out, encodeCopy(d, salts[2*saltSize+saltInHeader:], true)...)
	return append(out, areaBytes...), nil
}
