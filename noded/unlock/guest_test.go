//go:build guest

package unlock

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/devicemapper"
	"cloister/noded/helper"
	"cloister/noded/userfile"
	"cloister/secret"
	"cloister/volume"
)

// These tests need device-mapper: tests/guest runs them on a node of the test
// cluster.

const (
	jobID = "00112233445566778899aabbccddeeff"

	uid = 4711
	gid = 4712
)

func TestMain(m *testing.M) {
	helper.Main()
	if len(os.Args) == 3 && os.Args[1] == "open-and-be-killed" {
		openAndBeKilled(os.Args[2])
	}
	os.Exit(m.Run())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// session returns a fresh name and, at the end, demands that nothing is left.
func session(t *testing.T) string {
	t.Helper()
	id := make([]byte, 8)
	rand.Read(id)
	s := fmt.Sprintf("%x", id)
	t.Cleanup(func() {
		if err := Close(context.Background(), s); err != nil {
			t.Errorf("closing at the end: %v", err)
		}
		nothingLeft(t, s)
	})
	return s
}

func nothingLeft(t *testing.T, session string) {
	t.Helper()
	if names, err := List(session); err != nil || len(names) > 0 {
		t.Errorf("mappings left: %v, %v", names, err)
	}
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if len(loops(t)) == 0 {
			break
		}
		if time.Now().After(until) {
			out, _ := exec.Command("losetup", "-l").CombinedOutput()
			t.Errorf("loop devices left: %s", out)
			break
		}
	}
	if out, _ := exec.Command("dmsetup", "table", "--showkeys").CombinedOutput(); strings.Contains(string(out), session) {
		t.Errorf("dmsetup still shows:\n%s", out)
	}
}

// A made volume is a file with its parameters.
type made struct {
	path   string
	pinned volume.Pinned
	keys   volume.Keys
	from   string
}

func makeVolume(t *testing.T, writable bool) made {
	t.Helper()
	dir := t.TempDir()
	m := made{path: dir + "/v.luks", from: dir + "/from"}
	check(t, os.MkdirAll(m.from+"/sub", 0o755))
	big := make([]byte, 3<<20)
	rand.Read(big)
	check(t, os.WriteFile(m.from+"/big", big, 0o644))
	check(t, os.WriteFile(m.from+"/sub/small", []byte("patients"), 0o600))
	check(t, os.Symlink("sub/small", m.from+"/link"))
	var err error
	m.pinned, m.keys, err = volume.Create(t.Context(), volume.CreateOptions{
		Path: m.path, From: m.from, Writable: writable, Free: map[bool]int64{true: 8 << 20}[writable], Rand: rand.Reader,
	})
	check(t, err)
	return m
}

func (m made) open(t *testing.T, session string, index int, readOnly bool) (*Opened, error) {
	t.Helper()
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(m.path, mode, 0)
	check(t, err)
	defer f.Close()
	return Open(t.Context(), session, Volume{
		Index: index, File: f, Pinned: m.pinned, Key: m.keys.VolumeKey, ReadOnly: readOnly, UID: uid, GID: gid,
	})
}

// loops names the files that have loop devices, but for the disks of tests' own
// file servers.
func loops(t *testing.T) (files []string) {
	t.Helper()
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Error(err)
	}
	for _, path := range found {
		// One that is gone meanwhile has none.
		if b, err := os.ReadFile(path); err == nil && !strings.HasSuffix(string(b), "/disk\n") {
			files = append(files, string(b))
		}
	}
	return files
}

// at opens a file inside the detached mount as the job's user: root has no
// place in a mount that maps one owner.
func at(t *testing.T, o *Opened, path string, flags int) (*os.File, error) {
	t.Helper()
	var root unix.Stat_t
	check(t, unix.Fstat(int(o.Mount.Fd()), &root))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.SetfsgidRetGid(int(root.Gid))
	unix.SetfsuidRetUid(int(root.Uid))
	defer unix.SetfsgidRetGid(0)
	defer unix.SetfsuidRetUid(0)
	fd, err := unix.Openat(int(o.Mount.Fd()), path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func sum(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestAReadOnlyVolumeOpensWithItsContentsAndTheUserAsOwner(t *testing.T) {
	m, s := makeVolume(t, false), session(t)
	begin := time.Now()
	o, err := m.open(t, s, 0, true)
	check(t, err)
	t.Logf("opened in %v", time.Since(begin))
	want, err := os.Open(m.from + "/big")
	check(t, err)
	defer want.Close()
	got, err := at(t, o, "big", unix.O_RDONLY)
	check(t, err)
	if sum(t, got) != sum(t, want) {
		t.Error("contents differ")
	}
	var st unix.Stat_t
	check(t, unix.Fstat(int(got.Fd()), &st))
	got.Close()
	if st.Uid != uid || st.Gid != gid {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	if _, err := at(t, o, "new", unix.O_CREAT|unix.O_WRONLY); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing: %v", err)
	}
	if names, _ := List(s); len(names) != 2 || !strings.HasSuffix(names[0], "-crypt") {
		t.Errorf("mappings %v", names)
	}
	check(t, o.Mount.Close())
	begin = time.Now()
	check(t, Close(t.Context(), s))
	t.Logf("closed in %v", time.Since(begin))
	nothingLeft(t, s)
	check(t, Close(t.Context(), s))
}

func TestAFlippedBitIsAnIOErrorAndNeverWrongData(t *testing.T) {
	m, s := makeVolume(t, false), session(t)
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	check(t, err)
	// The file's contents are somewhere in the payload: flip a bit in every 16th
	// block, so that one of them is hit, but leave the first MiB for the mount.
	b := make([]byte, 1)
	for off := m.pinned.PayloadOffset + 1<<20; off < m.pinned.PayloadOffset+m.pinned.PayloadSize; off += 16 * 4096 {
		_, err := f.ReadAt(b, off+100)
		check(t, err)
		b[0] ^= 4
		_, err = f.WriteAt(b, off+100)
		check(t, err)
	}
	check(t, f.Close())
	o, err := m.open(t, s, 0, true)
	check(t, err)
	defer o.Mount.Close()
	if altered, err := Altered(s); err != nil || len(altered) != 0 {
		t.Errorf("before a flipped bit is read, altered are %q, %v", altered, err)
	}
	want, err := os.ReadFile(m.from + "/big")
	check(t, err)
	got, err := at(t, o, "big", unix.O_RDONLY)
	check(t, err)
	defer got.Close()
	failed := 0
	page := make([]byte, 4096)
	for off := 0; off < len(want); off += len(page) {
		if _, err := got.ReadAt(page, int64(off)); err != nil {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("at %d: %v", off, err)
			}
			failed++
		} else if !bytes.Equal(page, want[off:off+len(page)]) {
			t.Fatalf("wrong data at %d", off)
		}
	}
	if failed == 0 {
		t.Error("no read failed: the test hit nothing")
	}
	if altered, err := Altered(s); err != nil || len(altered) != 1 || altered[0] != "volume 0" {
		t.Errorf("afterwards, altered are %q, %v", altered, err)
	}
	t.Logf("%d of %d pages failed", failed, len(want)/4096)
}

func TestASwappedHeaderHasNoEffect(t *testing.T) {
	m, s := makeVolume(t, false), session(t)
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	check(t, err)
	junk := make([]byte, m.pinned.PayloadOffset)
	rand.Read(junk)
	_, err = f.WriteAt(junk, 0)
	check(t, err)
	check(t, f.Close())
	o, err := m.open(t, s, 0, true)
	check(t, err)
	defer o.Mount.Close()
	small, err := at(t, o, "sub/small", unix.O_RDONLY)
	check(t, err)
	defer small.Close()
	if b, err := io.ReadAll(small); string(b) != "patients" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestAWrongVolumeIsRefusedAndLeavesNothing(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, m *made){
		"truncated": func(t *testing.T, m *made) { check(t, os.Truncate(m.path, m.pinned.End()-4096)) },
		"empty":     func(t *testing.T, m *made) { check(t, os.Truncate(m.path, 0)) },
		"garbage": func(t *testing.T, m *made) {
			junk := make([]byte, m.pinned.End())
			rand.Read(junk)
			check(t, os.WriteFile(m.path, junk, 0o600))
		},
		"wrong key": func(t *testing.T, m *made) {
			var err error
			m.keys.VolumeKey, err = secret.Random(rand.Reader, 64)
			check(t, err)
		},
		"wrong root hash": func(t *testing.T, m *made) {
			v := *m.pinned.Verity
			v.RootHash = strings.Repeat("0", 64)
			m.pinned.Verity = &v
		},
		"no root hash": func(t *testing.T, m *made) { m.pinned.Verity = nil },
	} {
		t.Run(name, func(t *testing.T) {
			m, s := makeVolume(t, false), session(t)
			change(t, &m)
			o, err := m.open(t, s, 0, true)
			if err == nil {
				o.Mount.Close()
				t.Fatal("opened")
			}
			t.Log(err)
			if bytes.Contains([]byte(err.Error()), m.keys.VolumeKey.Reveal()) {
				t.Error("the error shows the key")
			}
			nothingLeft(t, s)
		})
	}
}

func TestANewVolumeIsReadBackByTheClient(t *testing.T) {
	s := session(t)
	dir := t.TempDir()
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, 64<<20, false)
	check(t, err)
	f, err := os.OpenFile(dir+"/results.luks", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(pinned.End()))
	begin := time.Now()
	v := Volume{
		File: f, Pinned: pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey, Create: true, Job: jobID, Label: "results", UID: uid, GID: gid,
	}
	o, err := Open(t.Context(), s, v)
	check(t, err)
	header, err := WriteHeader(t.Context(), v)
	check(t, err)
	t.Logf("made in %v", time.Since(begin))
	out, err := at(t, o, "curve.png", unix.O_CREAT|unix.O_WRONLY)
	check(t, err)
	content := bytes.Repeat([]byte("survival "), 200000)
	_, err = out.Write(content)
	check(t, err)
	check(t, out.Close())
	check(t, o.Mount.Close())
	check(t, <-header)
	check(t, Close(t.Context(), s))
	nothingLeft(t, s)
	check(t, f.Close()) // its lock goes with it, or the client finds the volume in use
	var st unix.Stat_t
	check(t, unix.Stat(f.Name(), &st))
	t.Logf("a volume of %d MiB takes %d KiB", pinned.PayloadSize>>20, st.Blocks/2)
	summary, err := volume.Extract(t.Context(), volume.ExtractOptions{Path: f.Name(), To: dir + "/out", Pinned: pinned, VolumeKey: keys.VolumeKey})
	check(t, err)
	got, err := os.ReadFile(dir + "/out/curve.png")
	check(t, err)
	if !bytes.Equal(got, content) || summary.Files != 1 || summary.Directories > 1 {
		t.Errorf("extracted %+v", summary)
	}
	// The owner's own tool opens it, too.
	key := dir + "/keyslot"
	check(t, os.WriteFile(key, keys.KeyslotKey.Reveal(), 0o600))
	if out, err := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", key, f.Name()).CombinedOutput(); err != nil {
		t.Errorf("cryptsetup: %v: %s", err, out)
	}
}

func TestAWritableVolumeKeepsWhatWasWritten(t *testing.T) {
	m, s := makeVolume(t, true), session(t)
	o, err := m.open(t, s, 3, false)
	check(t, err)
	f, err := at(t, o, "added", unix.O_CREAT|unix.O_WRONLY)
	check(t, err)
	f.WriteString("more")
	check(t, f.Close())
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	s = session(t)
	o, err = m.open(t, s, 0, false)
	check(t, err)
	defer o.Mount.Close()
	f, err = at(t, o, "added", unix.O_RDONLY)
	check(t, err)
	defer f.Close()
	if b, _ := io.ReadAll(f); string(b) != "more" {
		t.Errorf("read %q", b)
	}
}

func TestASecondWriterIsRefusedUntilTheFirstHasClosed(t *testing.T) {
	m, s := makeVolume(t, true), session(t)
	o, err := m.open(t, s, 0, false)
	check(t, err)
	if second, err := m.open(t, s, 1, false); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a second writer: %v", err)
		if err == nil {
			second.Mount.Close()
		}
	}
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	nothingLeft(t, s)
	again, err := m.open(t, s, 0, false)
	check(t, err)
	check(t, again.Mount.Close())
}

func TestPlainModeReadsTheSameBytesAsLUKS2(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		t.Run(fmt.Sprint(sector), func(t *testing.T) {
			dir := t.TempDir()
			path, key, pass := dir+"/v.luks", dir+"/key", dir+"/pass"
			volumeKey, err := secret.Random(rand.Reader, 64)
			check(t, err)
			check(t, os.WriteFile(key, volumeKey.Reveal(), 0o600))
			check(t, os.WriteFile(pass, []byte("pass"), 0o600))
			check(t, os.WriteFile(path, nil, 0o600))
			check(t, os.Truncate(path, 24<<20))
			run := func(args ...string) {
				t.Helper()
				if out, err := exec.Command("cryptsetup", args...).CombinedOutput(); err != nil {
					t.Fatalf("cryptsetup %q: %v: %s", args, err, out)
				}
			}
			run("-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
				"--sector-size", fmt.Sprint(sector), "--cipher", "aes-xts-plain64", "--key-size", "512",
				"--volume-key-file", key, "--key-file", pass, path)
			run("open", "--volume-key-file", key, path, "diff-luks")
			content := make([]byte, 8<<20)
			rand.Read(content)
			dev, err := os.OpenFile("/dev/mapper/diff-luks", os.O_RDWR, 0)
			check(t, err)
			_, err = dev.Write(content)
			check(t, err)
			check(t, dev.Sync())
			check(t, dev.Close())
			run("close", "diff-luks")
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			const offset = 16 << 20 // cryptsetup's own
			loop, err := attachLoop(f, offset, 8<<20, true)
			check(t, err)
			defer loop.Close()
			plain, err := devicemapper.OpenCrypt(devicemapper.Crypt{
				Name: "diff-plain", Device: loop.Name(), Cipher: "aes-xts-plain64", Key: volumeKey,
				Size: 8 << 20 / unit, SectorSize: uint32(sector), ReadOnly: true,
			})
			check(t, err)
			defer devicemapper.Close("diff-plain")
			got, err := os.ReadFile(plain)
			check(t, err)
			if !bytes.Equal(got, content) {
				t.Error("plain mode reads other bytes than LUKS2")
			}
		})
	}
}

func TestUdevDoesNotProbeWhatIsInside(t *testing.T) {
	s := session(t)
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, 32<<20, false)
	check(t, err)
	f, err := os.Create(t.TempDir() + "/v.luks")
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(pinned.End()))
	o, err := Open(t.Context(), s, Volume{File: f, Pinned: pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey, Create: true, Job: jobID, UID: uid, GID: gid})
	check(t, err)
	defer o.Mount.Close()
	exec.Command("udevadm", "settle", "--timeout=20").Run()
	device, err := devicemapper.Path(o.Names[0])
	check(t, err)
	out, err := exec.Command("udevadm", "info", device).CombinedOutput()
	check(t, err)
	if strings.Contains(string(out), "ID_FS_") || strings.Contains(string(out), "\nS: ") {
		t.Errorf("udev looked inside, or made a link:\n%s", out)
	}
}

func TestAUsersFileOnTheFileServerOpens(t *testing.T) {
	home := os.Getenv("GUEST_NFS_HOME")
	if home == "" {
		t.Fatal("GUEST_NFS_HOME is not set: run these tests by tests/guest")
	}
	var st unix.Stat_t
	check(t, unix.Stat(home, &st))
	user := userfile.User{UID: st.Uid, GID: st.Gid}
	s := session(t)
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, 64<<20, false)
	check(t, err)
	name := "guest-" + s + ".luks"
	f, err := userfile.Create(t.Context(), user, []string{filepath.Dir(home)}, home, name, pinned.End())
	check(t, err)
	defer f.Close()
	begin := time.Now()
	o, err := Open(t.Context(), s, Volume{File: f, Pinned: pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey, Create: true, Job: jobID, UID: st.Uid, GID: st.Gid})
	check(t, err)
	t.Logf("made on NFS in %v", time.Since(begin))
	w, err := at(t, o, "x", unix.O_CREAT|unix.O_WRONLY)
	check(t, err)
	w.WriteString("over the wire")
	check(t, w.Close())
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	check(t, f.Close()) // it shares the lock with the loop device
	again, err := userfile.Open(t.Context(), user, []string{filepath.Dir(home)}, home, name, userfile.ReadWrite)
	check(t, err)
	defer again.Close()
	made := userfile.Made{Path: filepath.Join(home, name)}
	check(t, made.Note(again))
	defer userfile.Remove(context.Background(), user, []string{filepath.Dir(home)}, made)
	s2 := session(t)
	o, err = Open(t.Context(), s2, Volume{Job: jobID, File: again, Pinned: pinned, Key: keys.VolumeKey, UID: st.Uid, GID: st.Gid})
	check(t, err)
	defer o.Mount.Close()
	r, err := at(t, o, "x", unix.O_RDONLY)
	check(t, err)
	defer r.Close()
	if b, _ := io.ReadAll(r); string(b) != "over the wire" {
		t.Errorf("read %q", b)
	}
}
