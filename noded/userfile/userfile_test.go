package userfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/helper"
)

func TestMain(m *testing.M) {
	helper.Main()
	os.Exit(m.Run())
}

var (
	alice = User{UID: 4711, GID: 4711, Groups: []uint32{4700}}
	bob   = User{UID: 4712, GID: 4712}
)

// A tree has /roots/alice (hers), /roots/bob (his, closed) and /outside.
type tree struct{ root, alice, bob, outside string }

func newTree(t *testing.T) tree {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests act as several users: run them as root")
	}
	base := t.TempDir()
	check(t, os.Chmod(filepath.Dir(base), 0o755))
	tr := tree{base + "/roots", base + "/roots/alice", base + "/roots/bob", base + "/outside"}
	mkdir(t, tr.root, 0o755, 0)
	mkdir(t, tr.alice, 0o755, alice.UID)
	mkdir(t, tr.bob, 0o755, bob.UID)
	mkdir(t, tr.outside, 0o777, alice.UID)
	return tr
}

func mkdir(t *testing.T, path string, mode os.FileMode, uid uint32) {
	t.Helper()
	check(t, os.Mkdir(path, mode))
	check(t, os.Chmod(path, mode))
	check(t, os.Chown(path, int(uid), int(uid)))
}

func write(t *testing.T, path, content string, mode os.FileMode, uid uint32) {
	t.Helper()
	check(t, os.WriteFile(path, []byte(content), mode))
	check(t, os.Chmod(path, mode))
	check(t, os.Chown(path, int(uid), int(uid)))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAUsersOwnFileOpensByRelativeAndAbsolutePathAndThroughLinks(t *testing.T) {
	tr := newTree(t)
	write(t, tr.alice+"/v.luks", "volume", 0o600, alice.UID)
	check(t, os.Symlink("v.luks", tr.alice+"/link"))
	for _, path := range []string{"v.luks", "./v.luks", "../alice/v.luks", tr.alice + "/v.luks", "link"} {
		for _, mode := range []Mode{ReadOnly, ReadWrite} {
			f, err := Open(t.Context(), alice, []string{tr.root}, tr.alice, path, mode)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if b, err := io.ReadAll(f); string(b) != "volume" || err != nil {
				t.Errorf("%s: read %q, %v", path, b, err)
			}
			if _, err := f.WriteAt([]byte("v"), 0); (err == nil) != (mode == ReadWrite) {
				t.Errorf("%s: writing in mode %d: %v", path, mode, err)
			}
			f.Close()
		}
	}
}

func TestManyFilesOpenTogetherOrNoneDoes(t *testing.T) {
	tr := newTree(t)
	var files []File
	for i := range 2*together + 3 {
		name := fmt.Sprintf("v%d", i)
		write(t, tr.alice+"/"+name, name, 0o600, alice.UID)
		files = append(files, File{name, Mode(i % 2)})
	}
	opened, err := OpenAll(t.Context(), alice, []string{tr.root}, tr.alice, files)
	check(t, err)
	for i, f := range opened {
		if b, err := io.ReadAll(f); string(b) != files[i].Path || err != nil || f.Name() != tr.alice+"/"+files[i].Path {
			t.Errorf("file %d is %s: %q, %v", i, f.Name(), b, err)
		}
		if _, err := f.WriteAt([]byte("v"), 0); (err == nil) != (files[i].Mode == ReadWrite) {
			t.Errorf("%s: writing in mode %d: %v", f.Name(), files[i].Mode, err)
		}
		f.Close()
	}
	// Those of helpers do not count: they are waited for in the background.
	descriptors := func() (n int) {
		all, err := filepath.Glob("/proc/self/fd/*")
		check(t, err)
		for _, d := range all {
			if to, err := os.Readlink(d); err == nil && to != "anon_inode:[pidfd]" {
				n++
			}
		}
		return n
	}
	before := descriptors()
	for _, bad := range []int{0, 3, together, 2*together + 2} {
		check(t, os.Chmod(tr.alice+"/"+files[bad].Path, 0))
		_, err := OpenAll(t.Context(), alice, []string{tr.root}, tr.alice, files)
		var which *FileError
		if !errors.As(err, &which) || which.Index != bad || !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), files[bad].Path) {
			t.Errorf("file %d: %v", bad, err)
		}
		check(t, os.Chmod(tr.alice+"/"+files[bad].Path, 0o600))
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestWhatAUserMayNotHaveIsRefused(t *testing.T) {
	tr := newTree(t)
	write(t, tr.bob+"/closed", "bob's", 0o600, bob.UID)
	write(t, tr.bob+"/readable", "bob's", 0o666, bob.UID)
	write(t, tr.outside+"/file", "outside", 0o644, alice.UID)
	write(t, tr.root+"/root-only", "root's", 0o600, 0)
	check(t, unix.Mkfifo(tr.alice+"/fifo", 0o666))
	check(t, os.Chmod(tr.alice+"/fifo", 0o666))
	check(t, unix.Mknod(tr.alice+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(t, os.Chmod(tr.alice+"/device", 0o666))
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(t, err)
	defer unix.Close(l)
	check(t, os.Chdir(tr.alice)) // a socket's name must be short
	check(t, unix.Bind(l, &unix.SockaddrUnix{Name: "socket"}))
	for name, target := range map[string]string{
		"out": tr.outside + "/file", "up": "../../outside/file", "dangling": "nowhere", "loop": "loop",
		"magic": "/proc/self/exe", "dir-out": tr.outside,
	} {
		check(t, os.Symlink(target, tr.alice+"/"+name))
	}
	for _, c := range []struct {
		path string
		mode Mode
		want error
	}{
		{tr.bob + "/closed", ReadOnly, syscall.EACCES},
		{"../bob/closed", ReadOnly, syscall.EACCES},
		{tr.bob + "/readable", ReadWrite, syscall.EPERM},
		{tr.root + "/root-only", ReadOnly, syscall.EACCES},
		{tr.outside + "/file", ReadOnly, syscall.EPERM},
		{"../../outside/file", ReadOnly, syscall.EPERM},
		{"out", ReadOnly, syscall.EPERM},
		{"up", ReadOnly, syscall.EPERM},
		{"dir-out/file", ReadOnly, syscall.EPERM},
		{"magic", ReadOnly, nil},
		{"dangling", ReadOnly, syscall.ENOENT},
		{"missing", ReadOnly, syscall.ENOENT},
		{"loop", ReadOnly, syscall.ELOOP},
		{"fifo", ReadOnly, syscall.EINVAL},
		{"fifo", ReadWrite, syscall.EINVAL},
		{"device", ReadOnly, syscall.EINVAL},
		{"socket", ReadOnly, syscall.EINVAL},
		{".", ReadOnly, syscall.EINVAL},
		{"", ReadOnly, nil},
		{"a\x00b", ReadOnly, nil},
		{"v/", ReadOnly, nil},
		{strings.Repeat("a/", MaxPath), ReadOnly, nil},
		{"/etc/passwd", ReadOnly, syscall.EPERM},
		{"/proc/1/environ", ReadOnly, syscall.EPERM},
	} {
		f, err := Open(t.Context(), alice, []string{tr.root}, tr.alice, c.path, c.mode)
		if err == nil {
			t.Errorf("%.60q was opened", c.path)
			f.Close()
		} else if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%.60q: %v, wanted %v", c.path, err, c.want)
		}
	}
	if f, err := Open(t.Context(), alice, []string{tr.root}, tr.alice, "../bob/readable", ReadOnly); err != nil {
		t.Errorf("a file that everybody may read: %v", err)
	} else {
		f.Close()
	}
	for _, roots := range [][]string{nil, {"/"}, {"relative"}, {tr.root + "/.."}} {
		if _, err := Open(t.Context(), alice, roots, tr.alice, "../bob/readable", ReadOnly); err == nil {
			t.Errorf("roots %q were accepted", roots)
		}
	}
	if _, err := Open(t.Context(), User{}, []string{tr.root}, tr.alice, "../bob/readable", ReadOnly); err == nil {
		t.Error("root was served as a user")
	}
}

func TestASwappedNameNeverGivesAFileOutsideTheRoots(t *testing.T) {
	tr := newTree(t)
	write(t, tr.alice+"/good", "good", 0o644, alice.UID)
	write(t, tr.outside+"/evil", "evil", 0o644, alice.UID)
	check(t, unix.Mkfifo(tr.alice+"/fifo", 0o666))
	check(t, os.Symlink("good", tr.alice+"/v"))
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		swaps := 0
		for ; !stop.Load(); swaps++ {
			target := []string{"good", tr.outside + "/evil", "fifo", "/proc/self/fd/0"}[swaps%4]
			os.Remove(tr.alice + "/new")
			os.Symlink(target, tr.alice+"/new")
			os.Rename(tr.alice+"/new", tr.alice+"/v")
		}
		done <- swaps
	}()
	opened, refused := 0, 0
	// Three seconds, longer on a machine so busy that only one outcome was seen by then.
	for began := time.Now(); time.Since(began) < 3*time.Second || (opened == 0 || refused == 0) && time.Since(began) < time.Minute; {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		f, err := Open(ctx, alice, []string{tr.root}, tr.alice, "v", ReadOnly)
		cancel()
		if errors.Is(err, helper.ErrDeadline) {
			t.Fatalf("an open hung: %v", err)
		}
		if err != nil {
			refused++
			continue
		}
		opened++
		if b, _ := io.ReadAll(f); string(b) != "good" {
			t.Errorf("got %q", b)
		}
		f.Close()
	}
	stop.Store(true)
	t.Logf("%d swaps, %d opened, %d refused", <-done, opened, refused)
	if opened == 0 || refused == 0 {
		t.Error("the race was not run: only one outcome was seen")
	}
}

func TestCreateMakesASparsePrivateFileOfTheUsersAndNeverReplacesOne(t *testing.T) {
	tr := newTree(t)
	roots := []string{tr.root}
	const size = 1 << 30
	f, err := Create(t.Context(), alice, roots, tr.alice, "results.luks", size)
	check(t, err)
	defer f.Close()
	var st unix.Stat_t
	check(t, unix.Stat(tr.alice+"/results.luks", &st))
	if st.Uid != alice.UID || st.Gid != alice.GID || st.Mode != unix.S_IFREG|0o600 || st.Size != size || st.Blocks > 8 {
		t.Errorf("made uid %d gid %d mode %o size %d blocks %d", st.Uid, st.Gid, st.Mode, st.Size, st.Blocks)
	}
	if _, err := f.WriteAt([]byte("x"), size-1); err != nil {
		t.Error(err)
	}
	check(t, os.Symlink(tr.outside+"/made", tr.alice+"/link"))
	check(t, os.Symlink(tr.outside, tr.alice+"/dir"))
	for path, want := range map[string]error{
		"results.luks":       syscall.EEXIST,
		"link":               syscall.EEXIST,
		"dir/made":           syscall.EPERM,
		tr.outside + "/made": syscall.EPERM,
		"../bob/made":        syscall.EACCES,
		"missing/made":       syscall.ENOENT,
		"..":                 syscall.EINVAL,
	} {
		if f, err := Create(t.Context(), alice, roots, tr.alice, path, size); !errors.Is(err, want) {
			t.Errorf("%s: %v, wanted %v", path, err, want)
			f.Close()
		}
	}
	if left, _ := os.ReadDir(tr.outside); len(left) != 0 {
		t.Errorf("made outside: %v", left)
	}
	if _, err := Create(t.Context(), alice, roots, tr.alice, "huge", 1<<62); err == nil {
		t.Error("a size beyond the file system's limit was accepted")
	}
	if _, err := os.Stat(tr.alice + "/huge"); !os.IsNotExist(err) {
		t.Error("a file was left behind by a failed creation")
	}
}

func TestWhetherAFileCanBeMadeIsSeenBesideTheFilesThatAreOpened(t *testing.T) {
	tr := newTree(t)
	roots := []string{tr.root}
	for _, name := range []string{"a", "b", "there"} {
		write(t, tr.alice+"/"+name, name, 0o600, alice.UID)
	}
	check(t, os.Symlink("nowhere", tr.alice+"/link"))
	check(t, os.Symlink(tr.outside, tr.alice+"/dir"))
	mkdir(t, tr.alice+"/read-only", 0o555, alice.UID)
	opened, err := OpenAll(t.Context(), alice, roots, tr.alice, []File{{"new", New}, {"a", ReadOnly}, {"../alice/newer", New}, {"b", ReadWrite}})
	check(t, err)
	if opened[0] != nil || opened[2] != nil || opened[1].Name() != tr.alice+"/a" || opened[3].Name() != tr.alice+"/b" {
		t.Errorf("opened %v", opened)
	}
	closeAll(opened)
	if _, err := os.Lstat(tr.alice + "/new"); !os.IsNotExist(err) {
		t.Errorf("what was only looked for: %v", err)
	}
	if opened, err := OpenAll(t.Context(), alice, roots, tr.alice, []File{{"new", New}}); err != nil || len(opened) != 1 || opened[0] != nil {
		t.Errorf("alone: %v, %v", opened, err)
	}
	for path, want := range map[string]error{
		"there":              syscall.EEXIST,
		"link":               syscall.EEXIST,
		"read-only":          syscall.EEXIST,
		"read-only/new":      syscall.EACCES,
		"dir/new":            syscall.EPERM,
		tr.outside + "/new":  syscall.EPERM,
		"../bob/new":         syscall.EACCES,
		tr.root + "/new":     syscall.EACCES,
		"missing/new":        syscall.ENOENT,
		"missing/beyond/new": syscall.ENOENT,
		"there/new":          syscall.ENOTDIR,
		"..":                 syscall.EINVAL,
	} {
		var which *FileError
		_, err := OpenAll(t.Context(), alice, roots, tr.alice, []File{{"a", ReadOnly}, {path, New}})
		if !errors.As(err, &which) || which.Index != 1 || !errors.Is(err, want) || !strings.Contains(err.Error(), "making ") {
			t.Errorf("%s: %v, wanted %v", path, err, want)
		}
	}
}

func TestRemoveTakesOnlyTheFileThatWasCreated(t *testing.T) {
	tr := newTree(t)
	roots := []string{tr.root}
	made := Made{Path: tr.alice + "/v", Size: 4096}
	unnoted := made
	f, err := Create(t.Context(), alice, roots, "", made.Path, made.Size)
	check(t, err)
	defer f.Close()
	check(t, made.Note(f))
	check(t, os.Rename(tr.alice+"/v", tr.alice+"/moved"))
	write(t, tr.alice+"/v", "another", 0o600, alice.UID)
	check(t, os.Truncate(tr.alice+"/v", made.Size))
	for name, m := range map[string]Made{"noted": made, "not noted": unnoted} {
		if err := Remove(t.Context(), alice, roots, m); err == nil {
			t.Errorf("%s: another file was removed", name)
		}
	}
	check(t, os.Rename(tr.alice+"/moved", tr.alice+"/v"))
	if _, err := f.Write([]byte("header")); err != nil {
		t.Error(err)
	}
	check(t, Remove(t.Context(), alice, roots, made))
	if _, err := os.Lstat(tr.alice + "/v"); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	check(t, Remove(t.Context(), alice, roots, made)) // an undo is safe twice
}

func TestAFileWhoseMakerDiedIsRemovedOnlyWithoutContent(t *testing.T) {
	tr := newTree(t)
	roots := []string{tr.root}
	made := Made{Path: tr.alice + "/v", Size: 1 << 20}
	check(t, Remove(t.Context(), alice, roots, made))
	for _, c := range []struct {
		size  int64
		owner uint32
		data  string
	}{{1 << 20, alice.UID, "x"}, {1<<20 - 1, alice.UID, ""}, {1 << 20, alice.UID + 1, ""}} {
		write(t, made.Path, c.data, 0o600, c.owner)
		check(t, os.Truncate(made.Path, c.size))
		if err := Remove(t.Context(), alice, roots, made); err == nil {
			t.Errorf("%+v: another file was removed", c)
		}
		check(t, os.RemoveAll(made.Path))
	}
	for _, size := range []int64{made.Size, 0} {
		write(t, made.Path, "", 0o600, alice.UID)
		check(t, os.Truncate(made.Path, size))
		check(t, Remove(t.Context(), alice, roots, made))
		if _, err := os.Lstat(made.Path); !os.IsNotExist(err) {
			t.Errorf("of %d bytes, still there: %v", size, err)
		}
	}
}

func TestARootThatIsALinkStillMatches(t *testing.T) {
	tr := newTree(t)
	write(t, tr.alice+"/v", "x", 0o600, alice.UID)
	link := filepath.Dir(tr.root) + "/home"
	check(t, os.Symlink(tr.root, link))
	f, err := Open(t.Context(), alice, []string{link}, link+"/alice", "v", ReadOnly)
	check(t, err)
	f.Close()
}
