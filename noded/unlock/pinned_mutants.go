//go:build mutants

package unlock

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"

	"cloister/mutant"
	"cloister/secret"
	"cloister/volume"
	"cloister/volume/luks2"
)

// parameters believes the header in the file when the defence is taken out,
// as a node would that calls `cryptsetup open`: that is what attack 19 needs.
func (o *opening) parameters() parameters {
	p := o.pinned()
	if p.authenticated && mutant.Removed(mutant.Authentication) {
		// dm-crypt alone, as for a volume that was sealed with integrity=none.
		p.authenticated, p.cipher = false, volume.Cipher
		half := secret.Alloc(luks2.VolumeKeySize)
		copy(half.Reveal(), o.key.Reveal())
		o.key = half
		o.Pinned.Cipher, o.Pinned.Integrity = p.cipher, nil
	}
	if !mutant.Removed(mutant.PinnedHeader) || o.Create {
		return p
	}
	var header struct {
		Segments map[string]struct {
			Offset     string `json:"offset"`
			Encryption string `json:"encryption"`
			SectorSize int64  `json:"sector_size"`
		} `json:"segments"`
	}
	// LUKS2 On-Disk Format Specification: JSON from 4096 on, zero-terminated.
	area, err := io.ReadAll(io.NewSectionReader(o.file, 4096, 12<<10))
	if err != nil {
		return p
	}
	area, _, _ = bytes.Cut(area, []byte{0})
	if json.Unmarshal(area, &header) != nil {
		return p
	}
	s, ok := header.Segments["0"]
	offset, err := strconv.ParseInt(s.Offset, 10, 64)
	if !ok || err != nil {
		return p
	}
	p.verity = nil
	p.size -= (offset - p.offset) / loopBlock * loopBlock
	p.area = p.size
	p.cipher, p.sectorSize, p.offset = s.Encryption, s.SectorSize, offset
	p.plaintext = len(s.Encryption) >= 11 && s.Encryption[:11] == "cipher_null"
	return p
}
