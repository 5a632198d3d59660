package volume

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"cloister/volume/integrity"
	"cloister/volume/luks2"
)

// PlanNewVolume pins a volume for writing of size bytes, which a node will
// make: its parameters and keys go into the manifest when a job is sealed.
// size is rounded up to whole sectors. Unless plain is said, its sectors are
// authenticated.
func PlanNewVolume(rand io.Reader, size int64, plain bool) (Pinned, Keys, error) {
	if size <= 0 || size > MaxPayloadSize {
		return Pinned{}, Keys{}, fmt.Errorf("planning a volume of %d bytes: out of bounds", size)
	}
	id, err := newUUID(rand)
	if err != nil {
		return Pinned{}, Keys{}, fmt.Errorf("planning a volume: %w", err)
	}
	p := pin(formatUUID(id), (size+luks2.SectorSize-1)/luks2.SectorSize*luks2.SectorSize)
	if !plain {
		l, err := integrity.NewLayout(p.PayloadSize)
		if err != nil {
			return Pinned{}, Keys{}, fmt.Errorf("planning a volume: %w", err)
		}
		tags := authenticated(l)
		p.Cipher, p.Integrity = AuthenticatedCipher, &tags
	}
	if err := p.Validate(); err != nil {
		return Pinned{}, Keys{}, fmt.Errorf("planning a volume of %d bytes: %w", size, err)
	}
	k, err := newKeyPair(rand, p.KeySize())
	return p, k, err
}

// HeaderForNewVolume returns the bytes to write at offset 0 of a new file for
// a volume for writing, which the caller then extends to p.End() bytes
// (sparse). The file system is the caller's to make, through dm-crypt, in the
// payload. label may be empty and goes into the header in the clear.
func HeaderForNewVolume(rand io.Reader, p Pinned, label string, keys Keys) ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("making a volume's header: %w", err)
	}
	if p.Verity != nil || p.PayloadOffset != luks2.PayloadOffset {
		return nil, errors.New("making a volume's header: parameters are not those of a new volume for writing")
	}
	return luks2.Encode(rand, p.params(label), keys.VolumeKey, keys.KeyslotKey)
}

// params are what the header says of the volume.
func (p Pinned) params(label string) luks2.Params {
	l := luks2.Params{Label: label, UUID: p.UUID, Authenticated: p.Integrity != nil}
	if p.Verity != nil {
		l.PayloadSize = p.PayloadSize // the tree that follows is no payload
	}
	return l
}

func pin(uuid string, size int64) Pinned {
	return Pinned{Cipher: Cipher, SectorSize: luks2.SectorSize, PayloadOffset: luks2.PayloadOffset, PayloadSize: size, UUID: uuid}
}

// newUUID returns a random UUID, version 4 (RFC 9562).
func newUUID(rand io.Reader) (id [16]byte, err error) {
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return id, fmt.Errorf("reading random bytes: %w", err)
	}
	id[6] = id[6]&0x0F | 0x40
	id[8] = id[8]&0x3F | 0x80
	return id, nil
}

func formatUUID(id [16]byte) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
