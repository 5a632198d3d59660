package integrity_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"

	"cloister/secret"
	"cloister/volume/integrity"
	"cloister/volume/integrity/integritytest"
)

const sector = integrity.SectorSize

// sparse is a file that takes what is written.
type sparse map[int64]byte

func (s sparse) WriteAt(b []byte, at int64) (int, error) {
	for i, c := range b {
		s[at+int64(i)] = c
	}
	return len(b), nil
}

func (s sparse) ReadAt(b []byte, at int64) (int, error) {
	for i := range b {
		b[i] = s[at+int64(i)]
	}
	return len(b), nil
}

func layout(t testing.TB, size int64) integrity.Layout {
	t.Helper()
	l, err := integrity.NewLayout(size)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// made is an area in which nothing was written yet.
func made(t testing.TB, l integrity.Layout) sparse {
	t.Helper()
	f := sparse{}
	if _, err := f.WriteAt(l.Head(), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func newKey(t testing.TB) secret.Bytes {
	t.Helper()
	key, err := secret.Random(rand.Reader, integrity.KeySize)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func opener(t testing.TB, f io.ReaderAt, l integrity.Layout, key secret.Bytes) *integrity.Opener {
	t.Helper()
	r, err := integrity.NewReader(f, l, key)
	if err != nil {
		t.Fatal(err)
	}
	return r.Opener()
}

func write(t testing.TB, f io.WriterAt, l integrity.Layout, key secret.Bytes, plain []byte, off int64) {
	t.Helper()
	if err := integritytest.Write(f, 0, l, key, plain, off); err != nil {
		t.Fatal(err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// That the kernel means the same is shown on its own, in noded/unlock.
func TestWhatIsWrittenIsReadBackAlsoAcrossRunsOfTags(t *testing.T) {
	l, key := layout(t, 40<<20), newKey(t)
	f := made(t, l)
	for _, off := range []int64{0, 16<<20 - 2*sector, 32<<20 - sector, 40<<20 - 4*sector} {
		plain := noise(4 * sector)
		write(t, f, l, key, plain, off)
		got := make([]byte, len(plain))
		if err := opener(t, f, l, key).Read(got, off); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

func TestSectorsAndTagsNeverOverlapAndFillTheArea(t *testing.T) {
	for _, size := range []int64{sector, 16<<20 - sector, 16 << 20, 16<<20 + sector, 100 << 20} {
		l := layout(t, size)
		end := int64(len(l.Head()))
		type span struct{ from, to int64 }
		var tags, sectors []span
		for off := int64(0); off < size; off += sector {
			tags = append(tags, span{l.TagAt(off), l.TagAt(off) + integrity.TagSize})
			sectors = append(sectors, span{l.SectorAt(off), l.SectorAt(off) + sector})
		}
		for i := range tags {
			if i > 0 && (tags[i].from < tags[i-1].to || sectors[i].from < sectors[i-1].to) {
				t.Fatalf("size %d: sector %d overlaps the one before", size, i)
			}
			if tags[i].from < end || tags[i].to > sectors[i].from {
				t.Fatalf("size %d: tag %d lies at %d, its sector at %d", size, i, tags[i].from, sectors[i].from)
			}
			if next := i + 1; next < len(tags) && tags[next].from < tags[i].to && tags[next].from != tags[i].to {
				t.Fatalf("size %d: tag %d", size, i)
			}
		}
		if last := sectors[len(sectors)-1].to; last != l.AreaSize() {
			t.Errorf("size %d: the last sector ends at %d of %d", size, last, l.AreaSize())
		}
		if again, err := integrity.OfArea(l.AreaSize()); err != nil || again != l {
			t.Errorf("size %d: of its area %+v, %v", size, again, err)
		}
		if _, err := integrity.OfArea(l.AreaSize() + 1); err == nil {
			t.Errorf("size %d: an area of one byte more is accepted", size)
		}
	}
}

func TestSizesOutOfBoundsAreRefused(t *testing.T) {
	for _, size := range []int64{-sector, 0, 1, sector - 1, sector + 1, integrity.MaxSize + sector} {
		if _, err := integrity.NewLayout(size); err == nil {
			t.Errorf("%d bytes: accepted", size)
		}
	}
	for _, area := range []int64{-1 << 62, -1, 0, 4096, 1 << 20, 1<<63 - 1} {
		if l, err := integrity.OfArea(area); err == nil && l.AreaSize() != area {
			t.Errorf("an area of %d bytes: accepted", area)
		}
	}
}

func TestAnyChangeToASectorOrItsTagIsNoticed(t *testing.T) {
	l, key := layout(t, 1<<20), newKey(t)
	f := made(t, l)
	write(t, f, l, key, noise(4*sector), 0)
	o := opener(t, f, l, key)
	buf := make([]byte, sector)
	alter := func(at int64, what string) {
		t.Helper()
		f[at] ^= 0x10
		defer func() { f[at] ^= 0x10 }()
		if err := o.Read(buf, sector); !errors.Is(err, integrity.ErrAltered) {
			t.Errorf("%s: %v", what, err)
		}
		if bytes.Count(buf, []byte{0}) != len(buf) {
			t.Errorf("%s: something is left in the buffer", what)
		}
	}
	for i := range int64(integrity.TagSize) {
		alter(l.TagAt(sector)+i, fmt.Sprintf("byte %d of the tag", i))
	}
	for i := int64(0); i < sector; i += 97 {
		alter(l.SectorAt(sector)+i, fmt.Sprintf("byte %d of the sector", i))
	}
	if err := o.Read(buf, sector); err != nil {
		t.Errorf("unaltered: %v", err)
	}
}

func TestASectorInAnotherPlaceOrNeverWrittenOrUnderAnotherKeyIsNoticed(t *testing.T) {
	l, key := layout(t, 1<<20), newKey(t)
	f := made(t, l)
	write(t, f, l, key, noise(2*sector), 0)
	for i := range int64(integrity.TagSize) {
		f[l.TagAt(5*sector)+i] = f[l.TagAt(0)+i]
	}
	for i := range int64(sector) {
		f[l.SectorAt(5*sector)+i] = f[l.SectorAt(0)+i]
	}
	buf := make([]byte, sector)
	if err := opener(t, f, l, key).Read(buf, 5*sector); !errors.Is(err, integrity.ErrAltered) {
		t.Errorf("moved: %v", err)
	}
	if err := opener(t, f, l, key).Read(buf, 7*sector); !errors.Is(err, integrity.ErrAltered) {
		t.Errorf("never written: %v", err)
	}
	for _, i := range []int{0, 70} { // of the cipher, which authenticates nothing, and of the HMAC
		other := secret.New(bytes.Clone(key.Reveal()))
		other.Reveal()[i] ^= 1
		err := opener(t, f, l, other).Read(buf, 0)
		if altered := errors.Is(err, integrity.ErrAltered); altered != (i >= 64) {
			t.Errorf("a key with another byte %d: %v", i, err)
		}
	}
}

func TestReadsOutsideAreRefused(t *testing.T) {
	l, key := layout(t, 1<<20), newKey(t)
	o := opener(t, made(t, l), l, key)
	for _, c := range []struct{ n, off int64 }{{sector, -sector}, {sector, 1}, {1, 0}, {sector, 1 << 20}, {2 * sector, 1<<20 - sector}, {sector, 1<<63 - sector}} {
		if err := o.Read(make([]byte, c.n), c.off); err == nil || errors.Is(err, integrity.ErrAltered) {
			t.Errorf("%d bytes at %d: %v", c.n, c.off, err)
		}
	}
	if err := opener(t, bytes.NewReader(l.Head()), l, key).Read(make([]byte, sector), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that is cut off: %v", err)
	}
	if _, err := integrity.NewReader(bytes.NewReader(nil), l, key); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that is cut off in the journal: %v", err)
	}
	if _, err := integrity.NewReader(sparse{}, l, secret.Alloc(64)); err == nil {
		t.Error("a key of 64 bytes: accepted")
	}
}

// FuzzRead lets an attacker write anything over tags and sectors: what is read
// is what was written, or an error.
func FuzzRead(f *testing.F) {
	l, key := layout(f, 1<<20), secret.New(bytes.Repeat([]byte{7}, integrity.KeySize))
	plain := bytes.Repeat([]byte("patients"), 2*sector/8)
	file := make([]byte, l.AreaSize())
	copy(file, l.Head())
	for off := int64(0); off < l.Size(); off += 2 * sector {
		write(f, at(file), l, key, plain, off)
	}
	f.Add(l.TagAt(sector), []byte{1})
	f.Add(l.SectorAt(3*sector)+17, []byte("attacker"))
	f.Add(int64(0), []byte("integrt"))
	f.Fuzz(func(t *testing.T, where int64, what []byte) {
		if where < 0 || where > int64(len(file))-int64(len(what)) {
			return
		}
		altered := bytes.Clone(file)
		copy(altered[where:], what)
		r, err := integrity.NewReader(bytes.NewReader(altered), l, key)
		if errors.Is(err, integrity.ErrAltered) {
			return // in the journal
		}
		if err != nil {
			t.Fatal(err)
		}
		o, buf := r.Opener(), make([]byte, 2*sector)
		for off := int64(0); off < l.Size(); off += 2 * sector {
			err := o.Read(buf, off)
			if err == nil && !bytes.Equal(buf, plain) {
				t.Fatalf("wrong data at %d", off)
			}
			if err != nil && !errors.Is(err, integrity.ErrAltered) {
				t.Fatal(err)
			}
		}
	})
}

type at []byte

func (b at) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

func BenchmarkRead(b *testing.B) {
	const size = 1 << 20
	l, key := layout(b, size), newKey(b)
	file := make([]byte, l.AreaSize())
	copy(file, l.Head())
	write(b, at(file), l, key, noise(size), 0)
	o := opener(b, bytes.NewReader(file), l, key)
	buf := make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		if err := o.Read(buf, 0); err != nil {
			b.Fatal(err)
		}
	}
}
