//go:build guest

package unlock

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/devicemapper"
	"cloister/volume"
	"cloister/volume/integrity"
)

const laterJob = "ffeeddccbbaa99887766554433221100"

// results is an authenticated volume as a job makes it.
type results struct {
	path   string
	pinned volume.Pinned
	keys   volume.Keys
}

func plan(t *testing.T, size int64) results {
	t.Helper()
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, size, false)
	check(t, err)
	return results{t.TempDir() + "/results.luks", pinned, keys}
}

// opened opens it, making it if it is not there.
func (r results) opened(t *testing.T, session, job string, known volume.State) (*Opened, error) {
	t.Helper()
	_, err := os.Stat(r.path)
	create := errors.Is(err, os.ErrNotExist)
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(r.pinned.End()))
	v := Volume{File: f, Pinned: r.pinned, Key: r.keys.VolumeKey, UID: uid, GID: gid, Job: job, Known: known}
	if create {
		v.Create, v.KeyslotKey = true, r.keys.KeyslotKey
	}
	o, err := Open(t.Context(), session, v)
	if err == nil && create {
		header, err := WriteHeader(t.Context(), v)
		check(t, err)
		check(t, <-header)
	}
	return o, err
}

// used opens the volume, does something in it and closes it again.
func (r results) used(t *testing.T, job string, do func(o *Opened)) {
	t.Helper()
	s := session(t)
	o, err := r.opened(t, s, job, volume.State{})
	check(t, err)
	do(o)
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	nothingLeft(t, s)
}

func write(t *testing.T, o *Opened, name string, content []byte) {
	t.Helper()
	f, err := at(t, o, name, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC)
	check(t, err)
	_, err = f.Write(content)
	check(t, err)
	check(t, f.Close())
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (r results) state(t *testing.T) volume.State {
	t.Helper()
	s, err := volume.Current(r.path, r.pinned, r.keys.VolumeKey, volume.State{}, true)
	check(t, err)
	return s
}

func (r results) extract(t *testing.T) (string, error) {
	t.Helper()
	to := t.TempDir() + "/out"
	_, err := volume.Extract(t.Context(), volume.ExtractOptions{Path: r.path, To: to, Pinned: r.pinned, VolumeKey: r.keys.VolumeKey})
	return to, err
}

// newArea is a file for the area of an authenticated volume, all zeros, and a
// device over it.
func newArea(t *testing.T, l integrity.Layout) (f, loop *os.File) {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/area")
	check(t, err)
	t.Cleanup(func() { f.Close() })
	check(t, f.Truncate(l.AreaSize()))
	loop, err = attachLoop(f, 0, l.AreaSize(), false)
	check(t, err)
	t.Cleanup(func() { loop.Close() })
	return f, loop
}

// oracle maps size bytes of an area.
func oracle(name string, area *os.File, l integrity.Layout, size int64) devicemapper.Integrity {
	return devicemapper.Integrity{
		Name: name, Device: area.Name(), Size: uint64(size) / unit, TagSize: integrity.TagSize, SectorSize: integrity.SectorSize,
		JournalSectors: int(l.JournalSize() / unit), InterleaveSectors: integrity.InterleaveSectors,
	}
}

// The kernel's own formatting, and cryptsetup's reading, are the oracles of
// package integrity.
func TestTheKernelMakesTheHeadThatWeWrite(t *testing.T) {
	for _, size := range []int64{4 << 20, 16 << 20, 16<<20 + 4096, 100 << 20, 500 << 30, 10 << 40} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			l, err := integrity.NewLayout(size)
			check(t, err)
			f, loop := newArea(t, l)
			n := "oracle-" + fmt.Sprint(size)
			_, err = devicemapper.OpenIntegrity(oracle(n, loop, l, size))
			check(t, err)
			_, _, err = closeDevice(n, newAdvance([]string{n}))
			check(t, err)
			want := l.Head()
			got := make([]byte, len(want))
			_, err = f.ReadAt(got, 0)
			check(t, err)
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("byte %d is %#x, the kernel makes %#x", i, want[i], got[i])
				}
			}
		})
	}
}

func TestCryptsetupOpensAnAuthenticatedVolumeWithItsKey(t *testing.T) {
	r := plan(t, 64<<20)
	content := noise(5 << 20)
	r.used(t, jobID, func(o *Opened) { write(t, o, "curve", content) })
	key := t.TempDir() + "/key"
	check(t, os.WriteFile(key, r.keys.KeyslotKey.Reveal(), 0o600))
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	run("cryptsetup", "open", "--key-file", key, r.path, "by-hand")
	dir := t.TempDir()
	run("mount", "-o", "ro", "/dev/mapper/by-hand", dir)
	got, err := os.ReadFile(dir + "/curve")
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	run("umount", dir)
	run("cryptsetup", "close", "by-hand")
}

func TestAnAuthenticatedVolumeCostsWhatIsWritten(t *testing.T) {
	r := plan(t, 500<<30)
	began := time.Now()
	content := noise(20 << 20)
	r.used(t, jobID, func(o *Opened) { write(t, o, "curve", content) })
	var st unix.Stat_t
	check(t, unix.Stat(r.path, &st))
	t.Logf("500 GiB made, 20 MiB written and closed in %v; the file takes %d KiB", time.Since(began), st.Blocks/2)
	if st.Blocks/2 > 100<<10 {
		t.Error("it is not sparse")
	}
	to, err := r.extract(t)
	check(t, err)
	got, err := os.ReadFile(to + "/curve")
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("extracted %d bytes, %v", len(got), err)
	}
}

// Many files over many groups and areas, written, deleted and written again.
func TestTheClientReadsWhatAJobWroteInManyPieces(t *testing.T) {
	r := plan(t, 300<<20)
	want := map[string][]byte{}
	for round := range 3 {
		r.used(t, jobID, func(o *Opened) {
			for i := range 60 {
				name := fmt.Sprintf("file-%d", i)
				if (i+round)%3 == 0 {
					content := noise(1 + i*40000)
					write(t, o, name, content)
					want[name] = content
				}
			}
		})
	}
	to, err := r.extract(t)
	check(t, err)
	for name, content := range want {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	if s := r.state(t); s != (volume.State{Counter: 6, Job: jobID}) {
		t.Errorf("after three sessions: %+v", s)
	}
	_, err = volume.Check(t.Context(), volume.CheckOptions{Path: r.path, Pinned: r.pinned, VolumeKey: r.keys.VolumeKey})
	check(t, err)
}

// alter changes one byte in each written sector of the area between two bytes of
// the volume.
func (r results) alter(t *testing.T, from, to int64) {
	t.Helper()
	l, err := integrity.NewLayout(r.pinned.PayloadSize)
	check(t, err)
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	b := make([]byte, integrity.SectorSize)
	for off := from; off < to; off += integrity.SectorSize {
		at := r.pinned.PayloadOffset + l.SectorAt(off)
		_, err := f.ReadAt(b, at)
		check(t, err)
		if bytes.Count(b, []byte{0}) < len(b) {
			_, err = f.WriteAt([]byte{b[100] ^ 1}, at+100)
			check(t, err)
		}
	}
}

func TestAGarbledSectorIsAnErrorAndNeverWrongData(t *testing.T) {
	r := plan(t, 64<<20)
	content := noise(8 << 20)
	r.used(t, jobID, func(o *Opened) { write(t, o, "curve", content) })
	// The metadata lies at the front.
	r.alter(t, 4<<20, r.pinned.FileSystemSize())
	if to, err := r.extract(t); !errors.Is(err, integrity.ErrAltered) || !strings.Contains(err.Error(), "curve") {
		t.Errorf("extracting to %s: %v", to, err)
	}
	s := session(t)
	o, err := r.opened(t, s, laterJob, volume.State{})
	check(t, err)
	defer o.Mount.Close()
	f, err := at(t, o, "curve", unix.O_RDONLY)
	check(t, err)
	defer f.Close()
	failed := 0
	page := make([]byte, 4096)
	for off := 0; off < len(content); off += len(page) {
		_, err := f.ReadAt(page, int64(off))
		switch {
		case errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EILSEQ):
			failed++
		case err != nil:
			t.Fatal(err)
		case !bytes.Equal(page, content[off:off+len(page)]):
			t.Fatalf("wrong data at %d", off)
		}
	}
	if failed == 0 {
		t.Error("no read failed: the test hit nothing")
	}
	t.Logf("%d of %d pages failed", failed, len(content)/4096)
}

func TestAGarbledFrontKeepsTheVolumeClosed(t *testing.T) {
	r := plan(t, 64<<20)
	r.used(t, jobID, func(*Opened) {})
	r.alter(t, 0, 4096)
	s := session(t)
	if o, err := r.opened(t, s, laterJob, volume.State{}); err == nil {
		o.Mount.Close()
		t.Error("opened")
	} else {
		t.Log(err)
	}
	nothingLeft(t, s)
}

func TestAnotherSuperblockHasNoEffect(t *testing.T) {
	r := plan(t, 64<<20)
	r.used(t, jobID, func(o *Opened) { write(t, o, "x", []byte("patients")) })
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt(noise(integrity.SuperblockSize), r.pinned.PayloadOffset)
	check(t, err)
	check(t, f.Close())
	r.used(t, laterJob, func(o *Opened) {
		f, err := at(t, o, "x", unix.O_RDONLY)
		check(t, err)
		defer f.Close()
		if b, err := io.ReadAll(f); string(b) != "patients" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestAnOlderStateIsRefused(t *testing.T) {
	r := plan(t, 32<<20)
	r.used(t, jobID, func(*Opened) {})
	older, err := os.ReadFile(r.path)
	check(t, err)
	r.used(t, laterJob, func(*Opened) {})
	newest := r.state(t)
	if newest != (volume.State{Counter: 4, Job: laterJob}) {
		t.Fatalf("%+v", newest)
	}
	check(t, os.WriteFile(r.path, older, 0o600))
	s := session(t)
	if o, err := r.opened(t, s, laterJob, newest); !errors.Is(err, volume.ErrOlder) && (err == nil || !strings.Contains(err.Error(), volume.ErrOlder.Error())) {
		if err == nil {
			o.Mount.Close()
		}
		t.Errorf("an older state: %v", err)
	}
	nothingLeft(t, s)
	// Without what was seen, nothing tells: that is what the pin is for.
	r.used(t, laterJob, func(*Opened) {})
}

func TestAVolumeWhoseNodeDiedStaysUnclosedUntilTheNextSession(t *testing.T) {
	r := plan(t, 32<<20)
	s := session(t)
	o, err := r.opened(t, s, jobID, volume.State{})
	check(t, err)
	write(t, o, "x", noise(10000))
	f, err := at(t, o, "x", unix.O_RDONLY)
	check(t, err)
	check(t, o.Mount.Close())
	if err := Close(t.Context(), s); !errors.Is(err, ErrBusy) { // by force
		t.Errorf("closing a busy volume: %v", err)
	}
	table, _ := exec.Command("dmsetup", "table", "--showkeys").CombinedOutput()
	if strings.Contains(string(table), "authenc(") || strings.Contains(string(table), fmt.Sprintf("%x", r.keys.VolumeKey.Reveal()[:8])) {
		t.Errorf("the key is still in the kernel:\n%s", table)
	}
	f.Close()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if names, _ := List(s); len(names) == 0 {
			break
		}
	}
	nothingLeft(t, s)
	if got := r.state(t); !got.Unclosed() || got.Counter != 1 {
		t.Errorf("%+v", got)
	}
	r.used(t, laterJob, func(*Opened) {})
	if got := r.state(t); got != (volume.State{Counter: 4, Job: laterJob}) {
		t.Errorf("after the next session: %+v", got)
	}
}

func TestClosingByNameCountsWithoutMemoryOfTheOpening(t *testing.T) {
	r := plan(t, 32<<20)
	s := session(t)
	o, err := r.opened(t, s, jobID, volume.State{})
	check(t, err)
	check(t, o.Mount.Close())
	names, err := List(s)
	check(t, err)
	if !slices.Equal(names, []string{name(s, 0, authenc), name(s, 0, tags)}) {
		t.Errorf("mappings %q", names)
	}
	check(t, Close(context.Background(), s))
	nothingLeft(t, s) // the lock goes with the loop device
	if got := r.state(t); got != (volume.State{Counter: 2, Job: jobID}) {
		t.Errorf("%+v", got)
	}
}

// That nobody can alter the superblock between our writing and the kernel's
// reading, nothing promises.
func TestASuperblockOfAnotherGeometryMakesNoMapping(t *testing.T) {
	l, err := integrity.NewLayout(64 << 20)
	check(t, err)
	_, loop := newArea(t, l)
	for name, alter := range map[string]func(b []byte){
		"less journal":     func(b []byte) { b[12]-- },
		"other interleave": func(b []byte) { b[9]-- },
		"other padding":    func(b []byte) { b[24] = 0 },
	} {
		head := l.Head()
		alter(head)
		check(t, writeWhole(loop, head, 0))
		const n = "oracle-other"
		_, err := devicemapper.OpenIntegrity(oracle(n, loop, l, 32<<20))
		if err == nil {
			devicemapper.Close(n)
		}
		if err == nil || !strings.Contains(err.Error(), "the kernel would not use") {
			t.Errorf("%s: %v", name, err)
		}
		if state, serr := devicemapper.State(n); serr != nil || state != devicemapper.Inactive {
			t.Errorf("%s: a mapping is left: %v, %v", name, state, serr)
		}
	}
}
