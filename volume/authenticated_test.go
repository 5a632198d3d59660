package volume

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/volume/ext4"
	"cloister/volume/integrity"
	"cloister/volume/integrity/integritytest"

	"golang.org/x/sys/unix"
)

const (
	jobA = "00112233445566778899aabbccddeeff"
	jobB = "ffeeddccbbaa99887766554433221100"
)

// madeByNode makes an authenticated volume as a node does, without a kernel: a
// tree of files from dir, and a state.
func madeByNode(t testing.TB, dir string, s State) (string, Pinned, Keys) {
	t.Helper()
	p, k, err := PlanNewVolume(rand.Reader, 64<<20, false)
	must(t, err)
	head, err := HeaderForNewVolume(rand.Reader, p, "results", k)
	must(t, err)
	path := filepath.Join(t.TempDir(), "results.luks")
	must(t, os.WriteFile(path, head, 0o600))
	must(t, os.Truncate(path, p.End()))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	l, err := integrity.NewLayout(p.PayloadSize)
	must(t, err)
	_, err = f.WriteAt(l.Head(), p.PayloadOffset)
	must(t, err)
	write := func(b []byte, off int64) {
		must(t, integritytest.Write(f, p.PayloadOffset, l, k.VolumeKey, b, off))
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	tree, err := scan(t.Context(), root)
	must(t, err)
	im, err := ext4.NewImage(tree, ext4.Options{Size: p.FileSystemSize(), Seconds: time.Now().Unix()})
	must(t, err)
	src := &sources{root: root}
	defer src.close()
	buf := make([]byte, 64<<10)
	for off := int64(0); off < p.FileSystemSize(); off += int64(len(buf)) {
		used := buf[:im.Used(off/ext4.BlockSize, int64(len(buf))/ext4.BlockSize)*ext4.BlockSize]
		if len(used) > 0 {
			must(t, im.Fill(used, off/ext4.BlockSize, src.open))
			write(used, off)
		}
	}
	b, err := s.Encode()
	must(t, err)
	write(b, p.FileSystemSize())
	return path, p, k
}

func TestAnAuthenticatedVolumeIsReadAndAnyAlterationOfItNoticed(t *testing.T) {
	dir := source(t)
	state := State{4, jobB}
	path, p, k := madeByNode(t, dir, state)
	to := filepath.Join(t.TempDir(), "out")
	extract := func() error {
		os.RemoveAll(to)
		_, err := Extract(t.Context(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
		return err
	}
	must(t, extract())
	diff(t, describe(t, dir), describe(t, to))
	r, err := Check(t.Context(), CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
	if err != nil || !r.Verified || len(r.Header) > 0 {
		t.Errorf("check: %+v, %v", r, err)
	}
	if s, err := Current(path, p, k.VolumeKey, state, false); err != nil || s != state {
		t.Errorf("state %+v, %v", s, err)
	}
	l, err := integrity.NewLayout(p.PayloadSize)
	must(t, err)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	sector := make([]byte, integrity.SectorSize)
	// Every used sector in turn would take long: some of each kind.
	noticed := 0
	for off := int64(0); off < p.FileSystemSize(); off += 17 * integrity.SectorSize {
		at := p.PayloadOffset + l.SectorAt(off)
		_, err := file.ReadAt(sector, at)
		must(t, err)
		if bytes.Count(sector, []byte{0}) == len(sector) {
			break
		}
		_, err = file.WriteAt([]byte{sector[9] ^ 4}, at+9)
		must(t, err)
		_, err = Check(t.Context(), CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
		err2 := extract()
		for _, err := range []error{err, err2} {
			if err != nil && !errors.Is(err, integrity.ErrAltered) {
				t.Fatalf("sector at %d: %v", off, err)
			}
		}
		if err2 == nil {
			diff(t, describe(t, dir), describe(t, to)) // it was not needed
		} else {
			noticed++
		}
		if _, statErr := os.Stat(to); err2 != nil && !errors.Is(statErr, os.ErrNotExist) {
			t.Fatalf("sector at %d: something was extracted", off)
		}
		_, err = file.WriteAt(sector, at)
		must(t, err)
	}
	if noticed < 5 {
		t.Errorf("%d alterations were noticed: the test hit nothing", noticed)
	}
	t.Logf("%d alterations noticed", noticed)
}

func TestAnAlteredFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 300_000)
	rand.Read(content)
	must(t, os.WriteFile(filepath.Join(dir, "curve.png"), content, 0o600))
	path, p, k := madeByNode(t, dir, State{2, jobA})
	l, err := integrity.NewLayout(p.PayloadSize)
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	v, err := openPayload(path, p, k.VolumeKey)
	must(t, err)
	fs, err := v.fileSystem()
	must(t, err)
	must(t, fs.Walk(func(e ext4.Visit) error {
		if e.Name == "curve.png" {
			x, err := e.File.Extents()
			must(t, err)
			_, err = f.WriteAt([]byte("garbled"), p.PayloadOffset+l.SectorAt((x[0].Physical+3)*ext4.BlockSize))
			must(t, err)
		}
		return nil
	}, func(string) error { return nil }))
	must(t, v.Close())
	_, err = Extract(t.Context(), ExtractOptions{Path: path, To: filepath.Join(t.TempDir(), "out"), Pinned: p, VolumeKey: k.VolumeKey})
	if !errors.Is(err, integrity.ErrAltered) || !strings.Contains(err.Error(), "curve.png") {
		t.Errorf("extract: %v", err)
	}
	_, err = Check(t.Context(), CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
	if !errors.Is(err, integrity.ErrAltered) || !strings.Contains(err.Error(), "curve.png") {
		t.Errorf("check: %v", err)
	}
	if err := List(path, p, k.VolumeKey, func(Item) error { return nil }); err != nil {
		t.Errorf("ls needs no contents: %v", err)
	}
}

func TestAnOlderOrUnclosedStateIsNoticed(t *testing.T) {
	dir := t.TempDir()
	path, p, k := madeByNode(t, dir, State{4, jobA})
	for _, c := range []struct {
		known State
		want  error
	}{
		{State{}, nil},
		{State{2, jobB}, nil},
		{State{3, jobB}, nil},
		{State{4, jobA}, nil},
		{State{4, jobB}, ErrOlder},
		{State{5, jobA}, ErrOlder},
		{State{6, jobB}, ErrOlder},
	} {
		if _, err := Current(path, p, k.VolumeKey, c.known, false); !errors.Is(err, c.want) {
			t.Errorf("known %+v: %v", c.known, err)
		}
		if _, err := Current(path, p, k.VolumeKey, c.known, true); err != nil {
			t.Errorf("known %+v, any: %v", c.known, err)
		}
	}
	path, p, k = madeByNode(t, dir, State{5, jobA})
	if _, err := Current(path, p, k.VolumeKey, State{4, jobA}, false); !errors.Is(err, ErrUnclosed) {
		t.Errorf("unclosed: %v", err)
	}
}

func TestAnUnclosedVolumeIsReadThroughItsJournal(t *testing.T) {
	path, p, k := madeByNode(t, t.TempDir(), State{4, jobA})
	l, err := integrity.NewLayout(p.PayloadSize)
	must(t, err)
	file, err := os.ReadFile(path)
	must(t, err)
	opened, err := State{5, jobB}.Encode()
	must(t, err)
	journal := integritytest.NewJournal(file[p.PayloadOffset:], l, k.VolumeKey)
	journal.Commit(integritytest.Sector{Off: p.FileSystemSize(), Plain: opened})
	must(t, os.WriteFile(path, file, 0o600))
	if s, err := Current(path, p, k.VolumeKey, State{}, true); err != nil || s != (State{5, jobB}) {
		t.Errorf("state %+v, %v", s, err)
	}
	if _, err := Current(path, p, k.VolumeKey, State{}, false); !errors.Is(err, ErrUnclosed) {
		t.Errorf("unclosed: %v", err)
	}
	journal.Section(0)[100] ^= 1 // in the first entry's tag
	must(t, os.WriteFile(path, file, 0o600))
	if _, err := Current(path, p, k.VolumeKey, State{}, true); !errors.Is(err, integrity.ErrAltered) {
		t.Errorf("with an altered journal: %v", err)
	}
}

func TestTheCounterIsOddWhileAVolumeIsOpen(t *testing.T) {
	s := State{}
	for i, c := range []struct {
		closed bool
		want   uint64
	}{{false, 1}, {true, 2}, {true, 2}, {false, 3}, {false, 5}, {true, 6}} {
		if c.closed {
			s = s.Closed()
		} else {
			s = s.Opened(jobA)
		}
		if s.Counter != c.want || s.Unclosed() == c.closed {
			t.Errorf("step %d: %+v", i, s)
		}
	}
}

func TestAnAuthenticatedVolumeDoesNotGrowInPlace(t *testing.T) {
	path, p, k := madeByNode(t, t.TempDir(), State{2, jobA})
	if _, _, err := Grow(t.Context(), GrowOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey, Create: CreateOptions{Size: 128 << 20, Rand: rand.Reader}}); err == nil {
		t.Error("it lost its authentication")
	}
}

func TestTheKeyslotOfAnAuthenticatedVolumeOpensIt(t *testing.T) {
	path, p, k := madeByNode(t, t.TempDir(), State{2, jobA})
	got, vk, _, err := Unlock(t.Context(), path, k.KeyslotKey)
	must(t, err)
	if got.Integrity == nil || *got.Integrity != *p.Integrity {
		t.Errorf("pinned %+v", got)
	}
	got.Integrity = p.Integrity
	if got != p || !vk.Equal(k.VolumeKey) {
		t.Errorf("pinned %+v, want %+v", got, p)
	}
}

// What nothing uses stays a hole: the file costs what is in it.
func TestAnAuthenticatedVolumeIsSparse(t *testing.T) {
	path, _, _ := madeByNode(t, t.TempDir(), State{2, jobA})
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Blocks > 4<<20/512 {
		t.Errorf("an empty volume of 64 MiB takes %d KiB", st.Blocks/2)
	}
}

func FuzzState(f *testing.F) {
	for _, s := range []State{{1, jobA}, {2, jobB}, {maxCounter, jobA}} {
		b, err := s.Encode()
		must(f, err)
		f.Add(b[:64])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, front []byte) {
		if len(front) > StateSize {
			return
		}
		b := append(bytes.Clone(front), make([]byte, StateSize-len(front))...)
		s, err := ParseState(b)
		if err != nil {
			return
		}
		if err := s.Validate(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("written again it is another: %v", err)
		}
		if o := s.Opened(jobA); s.After(o) == nil || o.After(s) != nil || !o.Unclosed() || o.Closed().Unclosed() {
			t.Errorf("%+v and then %+v", s, o)
		}
	})
}
