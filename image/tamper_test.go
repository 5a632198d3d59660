package image

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"testing"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// signedPair is a signed image whose two objects have equal sizes, and what a
// check of it says.
func signedPair(t testing.TB) (raw []byte, keys *Keys, v Verdict) {
	t.Helper()
	e := newKey(t, 0)
	body := squashfs(1024)
	raw = sign(t, build(t, input(t, sif.DataGeneric, bytes.Repeat([]byte{7}, len(body))), primary(t, sif.FsSquash, body, "amd64")), e)
	keys = keysOf(t, e)
	v, err := check(raw, keys)
	if err != nil {
		t.Fatal(err)
	}
	return raw, keys, v
}

// Offsets of fields in the header, and in a descriptor.
const (
	atCreated, atSlots, atTable, atTableSize, atData, atDataSize = 64, 88, 96, 104, 112, 120
	atUsed, atID, atGroup, atOffset, atSize, atPadded, atChanged = 4, 5, 9, 17, 25, 33, 49
	atExtra                                                      = 201
)

// uncovered tells which bytes of the image mean nothing to whoever runs it:
// SIF's signatures leave them out, and so may we.
func uncovered(l *layout, at int64) bool {
	table := l.header.TableOffset
	switch {
	case at < headerSize: // the header's times, its count of free slots, and the data's size
		return at >= atCreated && at < atSlots || at >= atDataSize
	case at < table:
		return true
	case at < int64(len(l.front)):
		n, field := (at-table)/objectSize, (at-table)%objectSize
		if n >= int64(len(l.objects)) {
			return field != atUsed
		}
		// A signature is itself unsigned: what it links to and holds is checked.
		return l.objects[n].isSignature() || field >= atPadded && field < atPadded+8 || field >= atChanged && field < atChanged+8
	}
	for _, o := range l.objects {
		if at >= o.Offset && at < o.Offset+o.Size {
			return o.isSignature() // armor and line ends have several spellings
		}
	}
	return true
}

func TestAFlippedByteIsRefusedOrMeansNothing(t *testing.T) {
	raw, keys, good := signedPair(t)
	l, err := readLayout(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := range raw {
		if at > headerSize+64 && at < int(l.header.TableOffset) {
			continue // 4 KiB of padding
		}
		raw[at] ^= 0x21
		v, err := check(raw, keys)
		raw[at] ^= 0x21
		if err != nil {
			refused++
			continue
		}
		if !uncovered(l, int64(at)) {
			t.Errorf("byte %d flipped, and the image is accepted", at)
		}
		if v.Partition.Size != good.Partition.Size || v.Partition.Offset != good.Partition.Offset {
			t.Errorf("byte %d moved the partition to %+v", at, v.Partition)
		}
	}
	if refused < 3000 {
		t.Errorf("only %d flips were refused", refused)
	}
}

func TestAByteFlippedInAnObjectIsCalledAnAlteration(t *testing.T) {
	raw, keys, v := signedPair(t)
	for _, at := range []int64{v.Partition.Offset + 100, v.Partition.Offset + v.Partition.Size - 1, v.Partition.Offset - 1} {
		raw[at] ^= 1
		_, err := check(raw, keys)
		want(t, "flipped", err, ErrAltered)
		raw[at] ^= 1
	}
	_, err := check(raw[:len(raw)-1], keys)
	want(t, "cut by one byte", err, ErrMalformed)
	_, err = check(raw[:200], keys)
	want(t, "cut in the header", err, ErrMalformed)
}

// slot returns the bytes of a descriptor in raw.
func slot(raw []byte, n int64) []byte {
	at := int64(binary.LittleEndian.Uint64(raw[atTable:])) + n*objectSize
	return raw[at : at+objectSize]
}

func TestSwappedDescriptorsAreRefused(t *testing.T) {
	raw, keys, _ := signedPair(t)
	swap := func(from, to int64) []byte {
		r := bytes.Clone(raw)
		a, b := slot(r, 0)[from:to], slot(r, 1)[from:to]
		tmp := bytes.Clone(a)
		copy(a, b)
		copy(b, tmp)
		return r
	}
	_, err := check(swap(0, objectSize), keys)
	want(t, "places in the table", err, ErrMalformed)
	_, err = check(swap(atID, atGroup), keys)
	want(t, "numbers", err, ErrMalformed)
	_, err = check(swap(atOffset, atSize), keys)
	want(t, "offsets", err, ErrAltered)
	_, err = check(swap(0, atUsed), keys)
	want(t, "types", err, ErrAltered)
	_, err = check(swap(atExtra, objectSize), keys)
	want(t, "what is the primary partition", err, ErrAltered)

	r := bytes.Clone(raw)
	copy(slot(r, 3), slot(r, 1))
	_, err = check(r, keys)
	want(t, "one object listed twice", err, ErrMalformed)
	slot(r, 3)[atID] = 9
	_, err = check(r, keys)
	want(t, "one object listed under two numbers", err, ErrMalformed)
}

func TestHostileNumbersAreRefusedBeforeAnythingIsAllocated(t *testing.T) {
	raw, keys, _ := signedPair(t)
	for _, n := range []int64{-1, math.MinInt64, math.MaxInt64, 1 << 40, 1<<62 + 5, 0x4000_0000_0000_0000, 1 << 31} {
		for what, at := range map[string]int{"slots": atSlots, "table offset": atTable, "table size": atTableSize, "data offset": atData} {
			r := bytes.Clone(raw)
			binary.LittleEndian.PutUint64(r[at:], uint64(n))
			frugally(t, what, r, keys)
		}
		for s := range int64(3) {
			for what, at := range map[string]int{"offset": atOffset, "size": atSize} {
				r := bytes.Clone(raw)
				binary.LittleEndian.PutUint64(slot(r, s)[at:], uint64(n))
				frugally(t, what, r, keys)
			}
		}
	}
}

// frugally checks r, told that the file is as large as can be, and demands a
// refusal that cost little memory.
func frugally(t *testing.T, what string, r []byte, keys *Keys) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Verify(bytes.NewReader(r), math.MaxInt64, keys)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Errorf("%s: accepted", what)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 2<<20 {
		t.Errorf("%s: %d bytes allocated for %v", what, got, err)
	}
}

func TestTooManySignaturesAreRefusedBeforeOneIsChecked(t *testing.T) {
	e := newKey(t, 0)
	var b sif.Buffer
	_, err := sif.CreateContainer(&b, sif.OptCreateWithDescriptorCapacity(64), sif.OptCreateWithDescriptors(primary(t, sif.FsSquash, squashfs(1024), "amd64")))
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	for range MaxSignatures + 1 {
		raw = sign(t, &b, e)
	}
	_, err = check(raw, keysOf(t, e))
	want(t, "17 signatures", err, ErrMalformed)
}

// shifty serves another file from the second read on.
type shifty struct {
	first, then []byte
	reads       int
}

func (s *shifty) ReadAt(p []byte, off int64) (int, error) {
	s.reads++
	if s.reads > 1 {
		return bytes.NewReader(s.then).ReadAt(p, off)
	}
	return bytes.NewReader(s.first).ReadAt(p, off)
}

func TestAFileThatChangesUnderTheCheckIsRefused(t *testing.T) {
	raw, keys, _ := signedPair(t)
	evil := bytes.Clone(raw)
	binary.LittleEndian.PutUint64(evil[atSlots:], 1<<60)
	if _, err := Verify(&shifty{first: raw, then: evil}, int64(len(raw)), keys); err == nil {
		t.Error("accepted")
	}
}
