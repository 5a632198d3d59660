//go:build guest

package unlock

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/volume"
	"cloister/volume/integrity"
)

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A fileServer is a file system whose disk can be copied as it is at a moment,
// with nothing of what was still in memory: what a power cut leaves of it.
type fileServer struct{ dir, image, mapping string }

func newFileServer(t *testing.T) fileServer {
	t.Helper()
	s := fileServer{dir: t.TempDir(), image: t.TempDir() + "/disk", mapping: "cut-" + session(t)}
	f, err := os.Create(s.image)
	check(t, err)
	check(t, f.Truncate(160<<20))
	check(t, f.Close())
	command(t, "mkfs.ext4", "-q", s.image)
	loop := command(t, "losetup", "--find", "--show", s.image)
	t.Cleanup(func() { exec.Command("losetup", "--detach", loop).Run() })
	command(t, "dmsetup", "create", s.mapping, "--table", fmt.Sprintf("0 %d linear %s 0", 160<<20/unit, loop))
	t.Cleanup(func() { exec.Command("dmsetup", "remove", "--retry", s.mapping).Run() })
	command(t, "mount", "/dev/mapper/"+s.mapping, s.dir)
	t.Cleanup(func() { exec.Command("umount", s.dir).Run() })
	return s
}

// fill leaves so much room, in bytes, until what it returns is called.
func (s fileServer) fill(t *testing.T, room int64) (free func()) {
	t.Helper()
	var st unix.Statfs_t
	check(t, unix.Statfs(s.dir, &st))
	ballast := s.dir + "/ballast"
	command(t, "fallocate", "--length", fmt.Sprint(int64(st.Bavail)*st.Bsize-room), ballast)
	return func() { check(t, os.Remove(ballast)) }
}

// cut returns a directory with what the disk holds at this moment.
func (s fileServer) cut(t *testing.T) string {
	t.Helper()
	// No freeze: a file system that is asked to would first store what it has.
	command(t, "dmsetup", "suspend", "--nolockfs", "--noflush", s.mapping)
	image := t.TempDir() + "/disk"
	command(t, "cp", "--sparse=always", s.image, image)
	command(t, "dmsetup", "resume", s.mapping)
	dir := t.TempDir()
	command(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	return dir
}

// busyWriter makes, changes, renames and removes files without end, and knows
// what was synced.
type busyWriter struct {
	mu     sync.Mutex
	synced map[string]string // names with contents that must be there
	stop   chan struct{}
	done   chan error
	rounds int
}

func (w *busyWriter) known() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.synced)
}

func (w *busyWriter) run(o *Opened) error {
	runtime.LockOSThread() // which ends with it: as in function at
	unix.SetfsgidRetGid(gid)
	unix.SetfsuidRetUid(uid)
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return nil
		default:
		}
		if err := w.round(o, n); err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		w.rounds = n
	}
}

// round changes what is there without syncing it, then syncs one file.
func (w *busyWriter) round(o *Opened, n int) error {
	dir := int(o.Mount.Fd())
	put := func(name, content string, sync bool) error {
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if _, err := f.WriteString(content); err != nil || !sync {
			return err
		}
		return f.Sync()
	}
	for i := range 6 {
		if err := put(fmt.Sprintf("loose-%d", (n+i)%40), strings.Repeat(fmt.Sprint(n), 1+n*977%30000), false); err != nil {
			return err
		}
	}
	if err := unix.Renameat(dir, fmt.Sprintf("loose-%d", n%40), dir, fmt.Sprintf("moved-%d", n%20)); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, fmt.Sprintf("moved-%d", (n+7)%20), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	name, content := fmt.Sprintf("kept-%d", n), strings.Repeat(fmt.Sprintf("result %d\n", n), 1+n*131%3000)
	if err := put(name, content, true); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.synced[name] = content
	return nil
}

// tree reads all files of a directory.
func tree(t *testing.T, dir fs.FS) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := fs.ReadFile(dir, p)
		all[p] = string(b)
		return err
	}))
	return all
}

func TestAPowerCutLosesNothingThatWasSyncedAndTheVolumeOpensAgain(t *testing.T) {
	r, s := plan(t, 32<<20), session(t)
	server := newFileServer(t)
	r.path = server.dir + "/results.luks"
	o, err := r.opened(t, s, jobID, volume.State{})
	check(t, err)
	w := &busyWriter{synced: map[string]string{}, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { w.done <- w.run(o) }()
	type moment struct {
		dir    string
		synced map[string]string
	}
	var cuts []moment
	for i := range 3 {
		time.Sleep(time.Duration(1500+i*1400) * time.Millisecond)
		synced := w.known()
		cuts = append(cuts, moment{server.cut(t), synced})
	}
	close(w.stop)
	check(t, <-w.done)
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	nothingLeft(t, s)
	t.Logf("%d rounds", w.rounds)
	inJournal := 0
	for i, c := range cuts {
		t.Logf("cut %d after %d syncs", i, len(c.synced))
		r := r
		r.path = c.dir + "/results.luks"
		if got := r.state(t); !got.Unclosed() {
			t.Errorf("cut %d: the state is %+v", i, got)
		}
		inJournal += r.inJournal(t)
		to, err := r.extract(t)
		if err != nil {
			t.Errorf("cut %d: the client: %v", i, err)
			continue
		}
		read := tree(t, os.DirFS(to))
		for name, content := range c.synced {
			if read[name] != content {
				t.Errorf("cut %d: the client reads %d of %d bytes of %s", i, len(read[name]), len(content), name)
			}
		}
		// The kernel brings both journals to their place, and sees the same.
		r.used(t, laterJob, func(o *Opened) {
			seen := tree(t, os.DirFS(fmt.Sprintf("/proc/self/fd/%d", o.Mount.Fd())))
			if !maps.Equal(read, seen) {
				t.Errorf("cut %d: the client read %d files, the kernel %d, or others", i, len(read), len(seen))
			}
			write(t, o, "later", []byte("later"))
		})
		if got := r.state(t); got != (volume.State{Counter: 4, Job: laterJob}) {
			t.Errorf("cut %d: after the next job the state is %+v", i, got)
		}
		if n := r.inJournal(t); n != 0 {
			t.Errorf("cut %d: a closed volume's journal holds %d sectors", i, n)
		}
		if to, err = r.extract(t); err != nil {
			t.Fatal(err)
		}
		read["later"] = "later"
		if !maps.Equal(tree(t, os.DirFS(to)), read) {
			t.Errorf("cut %d: after the next job other files are there", i)
		}
	}
	if inJournal == 0 {
		t.Error("no cut left anything in the journal: the test shows nothing of it")
	}
}

// inJournal is how many sectors lie in dm-integrity's journal.
func (r results) inJournal(t *testing.T) int {
	t.Helper()
	l, err := integrity.NewLayout(r.pinned.PayloadSize)
	check(t, err)
	f, err := os.Open(r.path)
	check(t, err)
	defer f.Close()
	reader, err := integrity.NewReader(io.NewSectionReader(f, r.pinned.PayloadOffset, l.AreaSize()), l, r.keys.VolumeKey)
	check(t, err)
	defer reader.Wipe()
	return reader.Unwritten()
}

// What the journal took and could not put to its place stays in it. For the rest
// of the session the whole volume is an error.
func TestAFullFileServerLosesNothingThatWasSynced(t *testing.T) {
	r, s := plan(t, 64<<20), session(t)
	server := newFileServer(t)
	r.path = server.dir + "/results.luks"
	free := server.fill(t, 30<<20)
	o, err := r.opened(t, s, jobID, volume.State{})
	check(t, err)
	put := func(name string, content []byte) error {
		f, err := at(t, o, name, unix.O_CREAT|unix.O_WRONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(content); err != nil {
			return err
		}
		return f.Sync()
	}
	kept := noise(1 << 20)
	check(t, put("kept", kept))
	if err := put("large", noise(40<<20)); err == nil {
		t.Fatal("40 MiB went where 30 were free")
	} else {
		t.Log(err)
	}
	check(t, o.Mount.Close())
	if err := Close(t.Context(), s); err != nil {
		t.Errorf("closing: %v", err)
	}
	nothingLeft(t, s)
	to, err := r.extract(t)
	check(t, err)
	if got, err := os.ReadFile(to + "/kept"); err != nil || !bytes.Equal(got, kept) {
		t.Errorf("the client reads %d bytes, %v", len(got), err)
	}
	t.Logf("%d sectors in the journal, state %+v", r.inJournal(t), r.state(t))
	free()
	r.used(t, laterJob, func(o *Opened) {
		f, err := at(t, o, "kept", unix.O_RDONLY)
		check(t, err)
		defer f.Close()
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, kept) {
			t.Errorf("the next job reads %d bytes, %v", len(got), err)
		}
		write(t, o, "later", noise(20<<20))
	})
}

func TestAnAlteredJournalKeepsTheVolumeClosed(t *testing.T) {
	r, s := plan(t, 32<<20), session(t)
	server := newFileServer(t)
	r.path = server.dir + "/results.luks"
	o, err := r.opened(t, s, jobID, volume.State{})
	check(t, err)
	f, err := at(t, o, "kept", unix.O_CREAT|unix.O_WRONLY)
	check(t, err)
	_, err = f.WriteString("result")
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
	r.path = server.cut(t) + "/results.luks"
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	if r.inJournal(t) == 0 {
		t.Fatal("nothing is in the journal")
	}
	whole, err := os.ReadFile(r.path)
	check(t, err)
	entry := r.pinned.PayloadOffset + integrity.SuperblockSize
	for entry < int64(len(whole)) && binary.LittleEndian.Uint32(whole[entry+4:]) == 0xFFFFFFFF {
		entry += 264 * 512
	}
	for name, where := range map[string]int64{
		"a sector's bytes": entry + 8*512 + 100, "a tag": entry + 80, "a place": entry, "a commit id": entry + 510,
	} {
		b := bytes.Clone(whole)
		b[where] ^= 8
		check(t, os.WriteFile(r.path, b, 0o600))
		if to, err := r.extract(t); !errors.Is(err, integrity.ErrAltered) {
			t.Errorf("%s: the client extracts to %s: %v", name, to, err)
		}
		s := session(t)
		if o, err := r.opened(t, s, laterJob, volume.State{}); err == nil || !strings.Contains(err.Error(), integrity.ErrAltered.Error()) {
			t.Errorf("%s: opened, or refused with %v", name, err)
			if err == nil {
				o.Mount.Close()
			}
		}
		nothingLeft(t, s)
		check(t, Close(t.Context(), s))
	}
	check(t, os.WriteFile(r.path, whole, 0o600))
	r.used(t, laterJob, func(o *Opened) {
		f, err := at(t, o, "kept", unix.O_RDONLY)
		check(t, err)
		defer f.Close()
		if b, err := io.ReadAll(f); string(b) != "result" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}
