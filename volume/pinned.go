package volume

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"cloister/volume/integrity"
	"cloister/volume/luks2"
	"cloister/volume/verity"
)

// The only values that Pinned accepts where the format leaves no choice.
const (
	Cipher = "aes-xts-plain64"
	// AuthenticatedCipher is that of volumes with Integrity.
	AuthenticatedCipher = "aes-xts-random"

	Algorithm = "sha256"

	// MaxPayloadSize is 1 PiB: large enough, and no sum of two overflows.
	MaxPayloadSize = 1 << 50
	// minPayloadOffset is the smallest LUKS2 header, two of 16 KiB.
	minPayloadOffset = 32 << 10
	maxPayloadOffset = 1 << 30
)

// Pinned holds everything but the key that opening a volume takes. The
// manifest carries it under the owner's signature, and whoever opens the volume
// uses it in place of the LUKS2 header. It is not secret.
//
// The payload is PayloadSize bytes at PayloadOffset of the file, encrypted with
// Cipher in sectors of SectorSize bytes; the IV counts units of 512 bytes from
// the payload's beginning (dm-crypt without iv_large_sectors).
type Pinned struct {
	Cipher        string  `json:"cipher"`
	SectorSize    int64   `json:"sector_size"`    // bytes
	PayloadOffset int64   `json:"payload_offset"` // bytes
	PayloadSize   int64   `json:"payload_size"`   // bytes
	UUID          string  `json:"uuid"`
	Verity        *Verity `json:"verity,omitempty"` // nil for a volume for writing

	// Integrity is nil unless each sector is authenticated. Then the IVs are
	// random and lie in the tags, and what fills the file from PayloadOffset on
	// is dm-integrity's area, with PayloadSize bytes of sectors in it.
	Integrity *Integrity `json:"integrity,omitempty"`
}

// Integrity says how an authenticated volume's tags are made and where they lie:
// package integrity knows one way.
type Integrity struct {
	Algorithm      string `json:"algorithm"`       // authenticates ciphertext, IV and sector number
	TagSize        int64  `json:"tag_size"`        // bytes for each sector
	InterleaveSize int64  `json:"interleave_size"` // bytes of sectors between two runs of tags
	JournalSize    int64  `json:"journal_size"`    // bytes, which follow from the payload's size
}

// authenticated is the only Integrity that Pinned accepts for a layout.
func authenticated(l integrity.Layout) Integrity {
	return Integrity{
		Algorithm: "hmac-sha256", TagSize: integrity.TagSize,
		InterleaveSize: integrity.InterleaveSectors * 512, JournalSize: l.JournalSize(),
	}
}

// Verity is a dm-verity tree, format 1, without superblock, over the
// ciphertext of the payload. It fills HashSize bytes at HashOffset of the same
// file, right after the payload.
type Verity struct {
	Algorithm     string `json:"algorithm"`
	DataBlockSize int64  `json:"data_block_size"` // bytes
	HashBlockSize int64  `json:"hash_block_size"` // bytes
	HashOffset    int64  `json:"hash_offset"`     // bytes
	HashSize      int64  `json:"hash_size"`       // bytes
	RootHash      string `json:"root_hash"`       // lower-case hex, 32 bytes
	Salt          string `json:"salt"`            // lower-case hex, 32 bytes
}

// pinnedPlain has Pinned's fields without its methods.
type pinnedPlain Pinned

// UnmarshalJSON accepts only what Marshal writes, but for white space: unknown,
// missing, duplicate and differently spelt fields are errors, and so are
// values that Validate refuses.
func (p *Pinned) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var plain pinnedPlain
	if err := d.Decode(&plain); err != nil {
		return fmt.Errorf("pinned volume parameters: %w", err)
	}
	again, err := json.Marshal(plain)
	if err != nil {
		return fmt.Errorf("pinned volume parameters: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return fmt.Errorf("pinned volume parameters: %w", err)
	}
	if !bytes.Equal(again, compact.Bytes()) {
		return errors.New("pinned volume parameters: not in the one accepted form")
	}
	if err := Pinned(plain).Validate(); err != nil {
		return fmt.Errorf("pinned volume parameters: %w", err)
	}
	*p = Pinned(plain)
	return nil
}

// Validate enforces every bound that opening the volume relies on.
func (p Pinned) Validate() error {
	want := Cipher
	if p.Integrity != nil {
		want = AuthenticatedCipher
	}
	switch {
	case p.Cipher != want:
		return fmt.Errorf("cipher %.32q is refused: only %s is accepted here", p.Cipher, want)
	case p.Integrity != nil && p.Verity != nil:
		return errors.New("a hash tree and authentication in one volume are refused")
	case p.SectorSize != luks2.SectorSize:
		return fmt.Errorf("sector size %d is refused: only %d is accepted", p.SectorSize, luks2.SectorSize)
	case p.PayloadOffset < minPayloadOffset || p.PayloadOffset > maxPayloadOffset || p.PayloadOffset%luks2.SectorSize != 0:
		return fmt.Errorf("payload offset %d is out of bounds or misaligned", p.PayloadOffset)
	case p.PayloadSize < 2*verity.BlockSize || p.PayloadSize > MaxPayloadSize || p.PayloadSize%luks2.SectorSize != 0:
		return fmt.Errorf("payload size %d is out of bounds or misaligned", p.PayloadSize)
	}
	if p.Integrity != nil {
		l, err := integrity.NewLayout(p.PayloadSize)
		if err != nil {
			return err
		}
		if *p.Integrity != authenticated(l) {
			return errors.New("parameters of the authentication are not the only accepted ones")
		}
	}
	if err := luks2.ValidUUID(p.UUID); err != nil {
		return err
	}
	if p.Verity == nil {
		return nil
	}
	return p.Verity.validate(p.PayloadOffset+p.PayloadSize, p.PayloadSize)
}

func (v Verity) validate(at, dataSize int64) error {
	if v.Algorithm != Algorithm {
		return fmt.Errorf("verity algorithm %.32q is refused: only %s is accepted", v.Algorithm, Algorithm)
	}
	if v.DataBlockSize != verity.BlockSize || v.HashBlockSize != verity.BlockSize {
		return fmt.Errorf("verity block sizes %d and %d are refused: only %d is accepted", v.DataBlockSize, v.HashBlockSize, verity.BlockSize)
	}
	l, err := verity.NewLayout(dataSize / verity.BlockSize)
	if err != nil {
		return err
	}
	if v.HashOffset != at || v.HashSize != l.Blocks*verity.BlockSize {
		return fmt.Errorf("verity tree of %d bytes at %d does not follow the payload: want %d at %d", v.HashSize, v.HashOffset, l.Blocks*verity.BlockSize, at)
	}
	if _, err := hex32(v.RootHash); err != nil {
		return fmt.Errorf("verity root hash: %w", err)
	}
	if _, err := hex32(v.Salt); err != nil {
		return fmt.Errorf("verity salt: %w", err)
	}
	return nil
}

// KeySize is the length of the volume key in bytes.
func (p Pinned) KeySize() int {
	if p.Integrity != nil {
		return integrity.KeySize
	}
	return luks2.VolumeKeySize
}

// AreaSize is what the segment takes of the file, in bytes: the payload, and in
// an authenticated volume the tags and what dm-integrity keeps before them.
func (p Pinned) AreaSize() int64 {
	if p.Integrity != nil {
		l, err := integrity.NewLayout(p.PayloadSize)
		if err != nil {
			return 0 // Validate has refused it
		}
		return l.AreaSize()
	}
	return p.PayloadSize
}

// End is the number of bytes that the file must have.
func (p Pinned) End() int64 {
	if p.Verity != nil {
		return p.Verity.HashOffset + p.Verity.HashSize
	}
	return p.PayloadOffset + p.AreaSize()
}

func (v Verity) verifier(f io.ReaderAt, dataSize int64) (*verity.Verifier, error) {
	root, err := hex32(v.RootHash)
	if err != nil {
		return nil, fmt.Errorf("verity root hash: %w", err)
	}
	salt, err := hex32(v.Salt)
	if err != nil {
		return nil, fmt.Errorf("verity salt: %w", err)
	}
	return verity.NewVerifier(io.NewSectionReader(f, v.HashOffset, v.HashSize), dataSize/verity.BlockSize, salt[:], root)
}

func hex32(s string) (out [32]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(out) || strings.ToLower(s) != s {
		return out, errors.New("not 64 digits of lower-case hex")
	}
	copy(out[:], b)
	return out, nil
}
