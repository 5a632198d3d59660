package luks2

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The binary header, section 2.1 of the LUKS2 On-Disk Format Specification:
// 4096 bytes, big endian, at offset 0 and again at hdr_size, each followed by
// its copy of the JSON area.
const (
	binarySize    = 4096
	headerVersion = 2
	checksumName  = "sha256"

	offVersion   = 6
	offHdrSize   = 8
	offSeqID     = 16
	offLabel     = 24
	offChecksum  = 72 // name of the checksum's algorithm
	offSalt      = 104
	offUUID      = 168
	offSubsystem = 208
	offHdrOffset = 256
	offSum       = 448
	labelSize    = 48
	sumSize      = 64
	saltInHeader = offUUID - offSalt
)

var (
	primaryMagic   = []byte("LUKS\xba\xbe")
	secondaryMagic = []byte("SKUL\xba\xbe")
)

// headerSizes are the values of hdr_size that the format allows, which are
// also the offsets where a secondary header may be.
var headerSizes = []int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

// ErrNotLUKS2 says that neither header carries the LUKS2 magic.
var ErrNotLUKS2 = errors.New("not a LUKS2 volume")

// onDisk is one copy of the header as it was read, with its JSON parsed.
type onDisk struct {
	size      int64 // hdr_size
	seqID     uint64
	label     string
	subsystem string
	uuid      string
	meta      *metadata
	text      []byte // the JSON area as it stands, without the zeros that fill it
}

// encodeCopy makes one copy of the header with h.text as its JSON area.
func encodeCopy(h onDisk, salt []byte, secondary bool) []byte {
	b := make([]byte, h.size)
	copy(b, primaryMagic)
	offset := int64(0)
	if secondary {
		copy(b, secondaryMagic)
		offset = h.size
	}
	binary.BigEndian.PutUint16(b[offVersion:], headerVersion)
	binary.BigEndian.PutUint64(b[offHdrSize:], uint64(h.size))
	binary.BigEndian.PutUint64(b[offSeqID:], h.seqID)
	copy(b[offLabel:offLabel+labelSize-1], h.label)
	copy(b[offChecksum:], checksumName)
	copy(b[offSalt:offUUID], salt)
	copy(b[offUUID:], h.uuid)
	copy(b[offSubsystem:offHdrOffset-1], h.subsystem)
	binary.BigEndian.PutUint64(b[offHdrOffset:], uint64(offset))
	copy(b[binarySize:], h.text)
	sum := sha256.Sum256(b)
	copy(b[offSum:], sum[:])
	return b
}

// readCopy reads and checks the copy of the header at offset.
func readCopy(r io.ReaderAt, offset int64) (*onDisk, error) {
	head := make([]byte, binarySize)
	if _, err := io.ReadFull(io.NewSectionReader(r, offset, binarySize), head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrNotLUKS2
		}
		return nil, fmt.Errorf("reading: %w", err)
	}
	magic := primaryMagic
	if offset != 0 {
		magic = secondaryMagic
	}
	if !bytes.Equal(head[:len(magic)], magic) {
		return nil, ErrNotLUKS2
	}
	if v := binary.BigEndian.Uint16(head[offVersion:]); v != headerVersion {
		return nil, fmt.Errorf("LUKS version %d: only version 2 is read", v)
	}
	size := binary.BigEndian.Uint64(head[offHdrSize:])
	if !validHeaderSize(size) {
		return nil, fmt.Errorf("header size %d is not one that the format allows", size)
	}
	if at := binary.BigEndian.Uint64(head[offHdrOffset:]); at != uint64(offset) {
		return nil, fmt.Errorf("header says that it lies at %d", at)
	}
	if offset != 0 && uint64(offset) != size {
		return nil, fmt.Errorf("secondary header at %d, but header size is %d", offset, size)
	}
	all := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(r, offset, int64(size)), all); err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", size, err)
	}
	alg, err := text(all[offChecksum:offSalt])
	if err != nil || alg != checksumName {
		return nil, fmt.Errorf("header checksum %.32q is not supported: only sha256 is", alg)
	}
	var want [sumSize]byte
	copy(want[:], all[offSum:offSum+sumSize])
	clear(all[offSum : offSum+sumSize])
	got := sha256.Sum256(all)
	if subtle.ConstantTimeCompare(got[:], want[:len(got)]) != 1 {
		return nil, errors.New("header checksum does not match")
	}
	if len(bytes.Trim(all[offHdrOffset+8:offSum], "\x00"))+len(bytes.Trim(all[offSum+sumSize:binarySize], "\x00")) != 0 {
		return nil, errors.New("header holds bytes where the format wants zeros")
	}
	h := &onDisk{size: int64(size), seqID: binary.BigEndian.Uint64(all[offSeqID:])}
	for _, f := range []struct {
		to   *string
		from []byte
		name string
	}{
		{&h.label, all[offLabel : offLabel+labelSize], "label"},
		{&h.uuid, all[offUUID:offSubsystem], "uuid"},
		{&h.subsystem, all[offSubsystem:offHdrOffset], "subsystem"},
	} {
		if *f.to, err = text(f.from); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	area := all[binarySize:]
	end := bytes.IndexByte(area, 0)
	if end < 0 {
		return nil, errors.New("JSON area has no end")
	}
	if len(bytes.Trim(area[end:], "\x00")) != 0 {
		return nil, errors.New("JSON area holds bytes after its end")
	}
	h.text = area[:end:end]
	if h.meta, err = decodeMetadata(h.text); err != nil {
		return nil, fmt.Errorf("JSON area: %w", err)
	}
	return h, nil
}

func validHeaderSize(n uint64) bool {
	for _, s := range headerSizes {
		if n == uint64(s) {
			return true
		}
	}
	return false
}

// text reads a NUL-terminated field of printable ASCII or UTF-8 without
// control characters, for it ends up on people's terminals.
func text(b []byte) (string, error) {
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return "", errors.New("no terminating zero")
	}
	if len(bytes.Trim(b[end:], "\x00")) != 0 {
		return "", errors.New("bytes after the terminating zero")
	}
	return string(b[:end]), printable(string(b[:end]))
}
