//go:build linux

package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A disk is a file system of a few pages, in which files have whole ones.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T) disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	d := disk{t, t.TempDir()}
	if err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves room in pages that are begun, and so many more.
func (d disk) fill(pages int64) {
	d.t.Helper()
	f, err := os.Create(d.ballast())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
	}
	if !errors.Is(err, unix.ENOSPC) {
		d.t.Fatal(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = f.Truncate(size - pages<<12)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d disk) makeRoom() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// config is of files that end within their first page. told are the heads that
// the journal heard of.
func (d disk) config() (c Config, told map[Head]bool) {
	told = map[Head]bool{}
	c = config(filepath.Join(d.dir, "audit"))
	c.maxFile = 3000
	c.Journal = func(_ Record, h Head) {
		if h != (Head{}) {
			told[h] = true
		}
	}
	return c, told
}

// consistent checks the files, and that they have what the journal heard of.
func consistent(t *testing.T, dir string, told map[Head]bool, files, faults int) {
	t.Helper()
	for h := range told {
		if r := verify(t, dir, &h); len(r.Faults) != faults || len(r.Notes) > 0 || r.Files != files {
			t.Fatalf("with head %v: %+v", h, r)
		}
	}
}

// fullFile adds records until the next one begins a file.
func fullFile(t *testing.T, l *Log) {
	t.Helper()
	for l.size < int64(l.maxFile) {
		add(t, l, Entry{Event: Done, Job: 7})
	}
	if l.size > 4<<10 {
		t.Fatalf("%d bytes are more than a page", l.size)
	}
}

// refuses has some records not taken, while recovering is tried, and an
// incident among them.
func refuses(t *testing.T, l *Log) {
	t.Helper()
	for _, e := range []Entry{{Event: Admitted}, {Event: Trouble, Incident: Stranger}, {Event: Admitted}} {
		if _, err := l.Add(e); !Full(err) {
			t.Fatalf("a record was taken that cannot be kept, or it failed otherwise: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := l.State(); !Full(s.Failed) || s.Since.IsZero() {
		t.Errorf("%+v", s)
	}
}

// goesOn waits until records are kept again, ends the Log, and checks what it
// counted.
func goesOn(t *testing.T, l *Log, damaged uint64) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); l.State().Failed != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("it did not recover: %v", l.State().Failed)
		}
	}
	h, err := l.Add(Entry{Event: Admitted})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Wait(t.Context(), h); err != nil {
		t.Error(err)
	}
	if n := l.State().Incidents; n[RecordsDamaged].All != damaged || n[Stranger].All != 1 {
		t.Errorf("counted %v", n)
	}
	shut(t, l)
}

func TestADiskThatIsFullWhenAFileBeginsLosesNothingAndIsNoIncident(t *testing.T) {
	quickly(t)
	d := newDisk(t)
	c, told := d.config()
	l := open(t, c)
	fullFile(t, l)
	head := l.State().Head
	d.fill(0)
	refuses(t, l)
	if h := l.State().Head; h != head {
		t.Errorf("the head is %v, not %v", h, head)
	}
	l.mu.Lock() // no file comes and goes meanwhile
	consistent(t, c.Dir, told, 1, 0)
	l.mu.Unlock()
	d.makeRoom()
	goesOn(t, l, 0)
	consistent(t, c.Dir, told, 2, 0)
}

func TestNodedStartsOnAFullDiskAndKeepsRecordsOnceThereIsRoom(t *testing.T) {
	quickly(t)
	alter := func(t *testing.T, file string) {
		lines(t, file, func(l []string) []string {
			l[4] = strings.Replace(l[4], `"job":7`, `"job":8`, 1)
			return l
		})
	}
	for name, c := range map[string]struct {
		leave  func(t *testing.T, file string) // what a predecessor left, whose file is full
		room   int64                           // in pages
		node   string
		files  int
		faults int
	}{
		"nothing": {leave: func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, files: 1},
		"a file without a record": {leave: func(t *testing.T, file string) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			next := fileName(uint64(bytes.Count(b, []byte{'\n'}) + 1))
			if err := os.WriteFile(filepath.Join(filepath.Dir(file), next), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, files: 2},
		"half a record, and room for its line feed": {leave: func(t *testing.T, file string) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, bytes.Repeat([]byte{'x'}, 4<<10-1-len(b))...)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, files: 1},
		"an altered record": {leave: alter, files: 2, faults: 1},
		"an altered record, and room for a file's first": {leave: alter, room: 1, node: strings.Repeat("s", 3700), files: 2, faults: 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			before, _ := d.config()
			l := open(t, before)
			fullFile(t, l)
			shut(t, l)
			c.leave(t, filepath.Join(l.Dir, fileName(1)))
			d.fill(c.room)
			now, told := d.config()
			now.Node, now.maxFile = c.node, 1<<20
			l = open(t, now)
			refuses(t, l)
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			l = open(t, now) // as the one before did
			refuses(t, l)
			d.makeRoom()
			goesOn(t, l, uint64(c.faults))
			consistent(t, l.Dir, told, c.files, c.faults)
		})
	}
}

// remount makes the file system read-only, or writable again.
func (d disk) remount(flags uintptr) {
	d.t.Helper()
	if err := unix.Mount("", d.dir, "", unix.MS_REMOUNT|flags, "size=128k"); err != nil {
		d.t.Fatal(err)
	}
}

func TestNodedStartsOnADiskThatTakesOrGivesNothingAndKeepsRecordsOnceItDoes(t *testing.T) {
	quickly(t)
	for name, c := range map[string]struct {
		breaks, mends func(d disk, dir string) error
	}{
		"read-only": {
			breaks: func(d disk, _ string) error { d.remount(unix.MS_RDONLY); return nil },
			mends:  func(d disk, _ string) error { d.remount(0); return nil },
		},
		"a file that cannot be read": { // for root any other can
			breaks: func(_ disk, dir string) error {
				return errors.Join(os.Rename(filepath.Join(dir, fileName(1)), dir+"/kept"), os.Mkdir(filepath.Join(dir, fileName(1)), 0o700))
			},
			mends: func(_ disk, dir string) error {
				return errors.Join(os.Remove(filepath.Join(dir, fileName(1))), os.Rename(dir+"/kept", filepath.Join(dir, fileName(1))))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			config, told := d.config()
			l := open(t, config)
			add(t, l, Entry{Event: Trouble, Incident: Stranger})
			shut(t, l)
			if err := c.breaks(d, config.Dir); err != nil {
				t.Fatal(err)
			}
			l = Open(config)
			if _, err := l.Add(Entry{Event: Admitted}); err == nil {
				t.Error("a record was taken that cannot be kept")
			}
			if s := l.State(); s.Failed == nil || Full(s.Failed) || s.Since.IsZero() {
				t.Errorf("%+v", s) // the node would not be given up
			}
			if err := c.mends(d, config.Dir); err != nil {
				t.Fatal(err)
			}
			goesOn(t, l, 0)
			consistent(t, l.Dir, told, 1, 0)
		})
	}
}
