package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// Limits on what a SIF file may claim. The sif module allocates by the file's
// own numbers, so they are checked before it sees the file.
const (
	// MaxDescriptors is the number of descriptor slots, used or not. Tools
	// make 48.
	MaxDescriptors = 512
	// MaxSignatures bounds the work: each one hashes its whole group again.
	MaxSignatures = 16
	// MaxSignature is the size of one signature object in bytes. A signed
	// object takes about 250 bytes of it, the OpenPGP part about 1 KiB.
	MaxSignature = 192 << 10
	// maxTable is where the descriptor table must end, in bytes. Tools put
	// it at 4096.
	maxTable = 1 << 20
)

// Sizes and marks of SIF version 01, from the sif module's sif.go and
// descriptor.go.
const (
	groupMask  = 0xf0000000 // set in every group number, 0 for "no group" included, and in links to groups
	headerSize = 128
)

type header struct {
	Launch                                 [32]byte
	Magic                                  [10]byte
	Version                                [3]byte
	Arch                                   [3]byte
	ID                                     [16]byte
	CreatedAt, ModifiedAt                  int64
	SlotsFree, Slots, TableOffset, TableSz int64
	DataOffset, DataSize                   int64
}

type object struct {
	Type                            sif.DataType
	Used                            byte
	ID, Group, Link                 uint32
	Offset, Size, Padded            int64
	CreatedAt, ModifiedAt, UID, GID int64
	Name                            [128]byte
	Extra                           [384]byte // a partition: int32 file system, int32 kind, [3]byte architecture
}

var objectSize = int64(binary.Size(object{}))

func (o *object) isSignature() bool { return o.Type == sif.DataSignature }
func (o *object) group() uint32     { return o.Group &^ groupMask }

func (o *object) partition() (fs sif.FSType, kind sif.PartType, arch [3]byte, ok bool) {
	if o.Type != sif.DataPartition {
		return 0, 0, arch, false
	}
	copy(arch[:], o.Extra[8:])
	return sif.FSType(binary.LittleEndian.Uint32(o.Extra[0:])), sif.PartType(binary.LittleEndian.Uint32(o.Extra[4:])), arch, true
}

// A layout is the table of contents of a SIF file whose numbers have been
// checked, with the bytes that they were read from.
type layout struct {
	f       io.ReaderAt
	size    int64
	front   []byte // the file up to the end of the descriptor table
	header  header
	objects []object // the used ones
	// envelopes counts the signatures in each DSSE signature object, by its number.
	envelopes map[uint32]int
}

// readLayout reads the header and the descriptor table and refuses numbers
// that point outside the file, overlap, repeat, or go beyond the limits.
func readLayout(f io.ReaderAt, size int64) (*layout, error) {
	l := &layout{f: f, size: size, envelopes: map[uint32]int{}}
	h := &l.header
	if err := readStruct(f, 0, size, headerSize, h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSIF, err)
	}
	if string(h.Magic[:]) != "SIF_MAGIC\x00" {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrNotSIF)
	}
	if string(h.Version[:]) != "01\x00" {
		return nil, fmt.Errorf("%w: format version %q, only 01 is known", ErrNotSIF, bytes.TrimRight(h.Version[:], "\x00"))
	}
	switch {
	case h.Slots < 0 || h.Slots > MaxDescriptors:
		return nil, fmt.Errorf("%w: %d descriptors, the limit is %d", ErrMalformed, h.Slots, MaxDescriptors)
	case h.TableSz != h.Slots*objectSize:
		return nil, fmt.Errorf("%w: %d bytes for %d descriptors", ErrMalformed, h.TableSz, h.Slots)
	case h.TableOffset < headerSize || h.TableOffset > maxTable-h.TableSz:
		return nil, fmt.Errorf("%w: descriptors at %d", ErrMalformed, h.TableOffset)
	case h.DataOffset < h.TableOffset+h.TableSz || h.DataOffset > size:
		return nil, fmt.Errorf("%w: data at %d", ErrMalformed, h.DataOffset)
	}
	l.front = make([]byte, h.TableOffset+h.TableSz)
	if _, err := f.ReadAt(l.front, 0); err != nil {
		return nil, fmt.Errorf("reading the image's descriptors: %w", err)
	}
	// The header was read a moment ago and may have changed since: from here
	// on only the bytes in memory count.
	var again header
	if _, err := binary.Decode(l.front, binary.LittleEndian, &again); err != nil || again != *h {
		return nil, errors.New("reading the image: it changes while it is read")
	}
	for slot := range h.Slots {
		var o object
		if _, err := binary.Decode(l.front[h.TableOffset+slot*objectSize:], binary.LittleEndian, &o); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if o.Used > 1 {
			return nil, fmt.Errorf("%w: slot %d is marked %d", ErrMalformed, slot, o.Used)
		}
		if o.Used == 1 {
			l.objects = append(l.objects, o)
		}
	}
	return l, l.checkObjects()
}

func readStruct(f io.ReaderAt, at, size, n int64, into any) error {
	if size < at+n {
		return fmt.Errorf("%d bytes are too few", size)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	_, err := binary.Decode(b, binary.LittleEndian, into)
	return err
}

// checkObjects checks each descriptor by itself and against the others.
func (l *layout) checkObjects() error {
	var last uint32
	for i := range l.objects {
		o := &l.objects[i]
		bad := func(format string, a ...any) error {
			return fmt.Errorf("%w: object %d %s", ErrMalformed, o.ID, fmt.Sprintf(format, a...))
		}
		switch {
		// Tools number objects by their slot. Ascending numbers are unique,
		// and fix the order in which overlays would be stacked.
		case o.ID <= last:
			return bad("follows object %d", last)
		case o.Size < 0 || o.Offset < l.header.DataOffset || o.Offset > l.size || o.Size > l.size-o.Offset:
			return bad("lies at %d to %d+%d, outside the file's data", o.Offset, o.Offset, o.Size)
		case o.Group&groupMask != groupMask:
			return bad("has the odd group %#x", o.Group)
		case o.isSignature() && o.Size > MaxSignature:
			return bad("is a signature of %d bytes, the limit is %d", o.Size, MaxSignature)
		}
		last = o.ID
		for _, other := range l.objects[:i] {
			if o.Offset < other.Offset+other.Size && other.Offset < o.Offset+o.Size {
				return bad("overlaps object %d", other.ID)
			}
		}
	}
	if n := len(l.signatures()); n > MaxSignatures {
		return fmt.Errorf("%w: %d signatures, the limit is %d", ErrMalformed, n, MaxSignatures)
	}
	return nil
}

func (l *layout) signatures() []object {
	var s []object
	for _, o := range l.objects {
		if o.isSignature() {
			s = append(s, o)
		}
	}
	return s
}

// checkCoverage demands that every object belongs to a group with a signature
// and that every signature is one that the module's default rules consider: an
// OpenPGP or DSSE signature over the metadata of a whole group.
func (l *layout) checkCoverage() error {
	groups, signed := map[uint32]bool{}, map[uint32]bool{}
	for _, o := range l.objects {
		if !o.isSignature() && o.group() != 0 {
			groups[o.group()] = true
		}
	}
	for _, s := range l.signatures() {
		if err := l.checkFormat(s); err != nil {
			return err
		}
		if s.Link&groupMask != groupMask || !groups[s.Link&^groupMask] {
			return fmt.Errorf("%w: signature %d does not cover a group of objects", ErrExtraObject, s.ID)
		}
		signed[s.Link&^groupMask] = true
	}
	switch {
	case len(l.objects) == 0:
		return fmt.Errorf("%w: it holds nothing", ErrNoPartition)
	case len(signed) == 0:
		return ErrUnsigned
	}
	for _, o := range l.objects {
		switch {
		case o.isSignature() && o.group() != 0:
			return fmt.Errorf("%w: signature %d is in group %d itself", ErrExtraObject, o.ID, o.group())
		case !o.isSignature() && o.group() == 0:
			return fmt.Errorf("%w: object %d is in no group", ErrExtraObject, o.ID)
		case !o.isSignature() && !signed[o.group()]:
			return fmt.Errorf("%w: object %d, its group %d has no signature", ErrExtraObject, o.ID, o.group())
		}
	}
	return nil
}

// checkFormat refuses the signature formats that are not verified here.
func (l *layout) checkFormat(s object) error {
	b := make([]byte, s.Size) // at most MaxSignature
	if _, err := io.ReadFull(io.NewSectionReader(l.f, s.Offset, s.Size), b); err != nil {
		return fmt.Errorf("reading signature %d: %w", s.ID, err)
	}
	if e := parseEnvelope(b); e != nil {
		l.envelopes[s.ID] = len(e.Signatures)
		return l.checkEnvelope(s, e)
	}
	block, rest := clearsign.Decode(b)
	switch {
	case block == nil:
		return fmt.Errorf("%w: signature %d is neither an OpenPGP nor a DSSE one", ErrAltered, s.ID)
	case bytes.HasPrefix(block.Plaintext, []byte("SIFHASH:\n")):
		return fmt.Errorf("%w: signature %d has the legacy format, which leaves headers unprotected; sign the image again", ErrUnsigned, s.ID)
	case len(bytes.TrimSpace(rest)) != 0:
		return fmt.Errorf("%w: signature %d is followed by something else", ErrAltered, s.ID)
	}
	return nil
}

// claimedSigners lists the fingerprints in the signatures' descriptors, which
// nothing vouches for.
func (l *layout) claimedSigners() []string {
	var fps []string
	for _, s := range l.signatures() {
		if l.envelopes[s.ID] > 0 {
			fps = append(fps, "a PEM key")
			continue
		}
		fps = append(fps, fmt.Sprintf("%X", s.Extra[4:24])) // after int32 hash type; a V4 fingerprint has 20 bytes
	}
	return fps
}

// snapshot is the file as the sif module shall see it: the checked front from
// memory, the rest from the file, nothing beyond its size, and no writing.
func (l *layout) snapshot() sif.ReadWriter { return readOnly{l} }

type readOnly struct{ l *layout }

var errReadOnly = errors.New("the image is open for reading only")

func (r readOnly) ReadAt(p []byte, off int64) (int, error) {
	front := int64(len(r.l.front))
	if off < 0 || off >= front {
		return io.NewSectionReader(r.l.f, 0, r.l.size).ReadAt(p, off)
	}
	n := copy(p, r.l.front[off:])
	if n == len(p) {
		return n, nil
	}
	m, err := io.NewSectionReader(r.l.f, 0, r.l.size).ReadAt(p[n:], front)
	return n + m, err
}

func (readOnly) Write([]byte) (int, error)      { return 0, errReadOnly }
func (readOnly) Seek(int64, int) (int64, error) { return 0, errReadOnly }
func (readOnly) Truncate(int64) error           { return errReadOnly }
