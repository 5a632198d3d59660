package userfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cloister/mutant"

	"golang.org/x/sys/unix"
)

// What follows runs in the helper process, as the user.

func handleOpen(body []byte, _ []*os.File) (any, []*os.File, error) {
	r, roots, err := parse(body)
	if err != nil {
		return nil, nil, err
	}
	var opened []*os.File
	for i, want := range r.files() {
		f, err := open(want, r.UID, roots)
		if err != nil {
			closeAll(opened)
			failed := failure{Index: i, Text: err.Error()}
			var errno syscall.Errno
			if errors.As(err, &errno) {
				failed.Errno = int(errno)
			}
			return failed, nil, nil
		}
		if f != nil {
			opened = append(opened, f)
		}
	}
	return nil, opened, nil
}

func open(want File, uid uint32, roots []string) (*os.File, error) {
	if want.Mode == New {
		return nil, free(want.Path, roots)
	}
	f, err := openOnce(want, uid, roots)
	if (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE)) && askAgain(want.Path) {
		return openOnce(want, uid, roots)
	}
	return f, err
}

func openOnce(want File, uid uint32, roots []string) (*os.File, error) {
	// O_PATH first: neither a FIFO nor a device is touched by that, and the
	// object looked at is then the object opened, whatever happens to its name.
	look, err := openat2(unix.AT_FDCWD, want.Path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer look.Close()
	st, err := regular(look)
	if err != nil {
		return nil, err
	}
	if err := beneath(look, roots); err != nil {
		return nil, err
	}
	if err := notUsers(look); err != nil {
		return nil, err
	}
	if want.Mode == ReadWrite && st.Uid != uid {
		return nil, fmt.Errorf("file belongs to uid %d: only the user's own files are opened for writing: %w", st.Uid, syscall.EPERM)
	}
	return reopen(look, want.access())
}

// askAgain has the file server asked what lies in the path's directory. An NFS
// client remembers for up to acdirmax (60 seconds, nfs(5)) that a name was not
// there, or which file it stood for, and would refuse the job of a user who has
// just put the file in its place or replaced it; opening the directory for
// reading makes it ask (close-to-open).
func askAgain(path string) bool {
	dir, err := openat2(unix.AT_FDCWD, path[:strings.LastIndexByte(path, '/')+1], unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	dir.Close()
	return true
}

// free says why a file of that name cannot be made. What the file server knows of
// the place counts, as for open.
func free(path string, roots []string) error {
	err := freeNow(path, roots)
	if err == nil || errors.Is(err, unix.EPERM) { // a place that is refused is not asked
		return err
	}
	askAgain(strings.TrimRight(path[:strings.LastIndexByte(path, '/')], "/")) // where its directory lies
	if !askAgain(path) {
		return err
	}
	return freeNow(path, roots)
}

func freeNow(path string, roots []string) error {
	dir, name, err := parent(path, roots)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	switch err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		return unix.EEXIST
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	if err := unix.Faccessat(int(dir.Fd()), ".", unix.W_OK|unix.X_OK, 0); err != nil {
		return fmt.Errorf("writing to its directory: %w", err)
	}
	return nil
}

func handleCreate(body []byte, _ []*os.File) (any, []*os.File, error) {
	r, roots, err := parse(body)
	if err != nil {
		return nil, nil, err
	}
	dir, name, err := parent(r.Path, roots)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	f, err := openat2(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := size(f, r); err != nil {
		err = errors.Join(err, unix.Unlinkat(int(dir.Fd()), name, 0))
		f.Close()
		return nil, nil, err
	}
	return nil, []*os.File{f}, nil
}

func size(f *os.File, r request) error {
	st, err := regular(f)
	if err != nil {
		return err
	}
	if st.Uid != r.UID {
		return fmt.Errorf("the file server made the file for uid %d: %w", st.Uid, syscall.EPERM)
	}
	return unix.Ftruncate(int(f.Fd()), r.Size)
}

func handleRemove(body []byte, _ []*os.File) (any, []*os.File, error) {
	r, roots, err := parse(body)
	if err != nil {
		return nil, nil, err
	}
	dir, name, err := parent(r.Path, roots)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil, nil
	case err != nil:
		return nil, nil, err
	case !r.Made.is(st, r.UID):
		return nil, nil, fmt.Errorf("the name stands for another file, of %d bytes in %d blocks, which is left alone", st.Size, st.Blocks)
	}
	return nil, nil, unix.Unlinkat(int(dir.Fd()), name, 0)
}

// is says whether a file is the one that was made. Of one whose maker died before
// it could say, perhaps before it gave it its size, that it has no data must do:
// nobody loses anything with it.
func (m Made) is(st unix.Stat_t, uid uint32) bool {
	if m.Ino == 0 {
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Uid == uid && (st.Size == 0 || st.Size == m.Size) && st.Blocks == 0
	}
	return st.Dev == m.Dev && st.Ino == m.Ino
}

// parse also resolves the roots, so that a root which is itself a link (/home
// to /export/home) still matches. Roots come from the administrator's policy.
func parse(body []byte) (request, []string, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return r, nil, fmt.Errorf("decoding the request: %w", err)
	}
	var roots []string
	for _, root := range r.Roots {
		// A root that is absent on this node, or closed to the user, allows nothing.
		if real, err := filepath.EvalSymlinks(root); err == nil && real != "/" {
			roots = append(roots, real)
		}
	}
	return r, roots, nil
}

// parent opens the directory in which path's last part lies, after a check of
// where that really is.
func parent(path string, roots []string) (*os.File, string, error) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if name == "" || name == "." || name == ".." {
		return nil, "", fmt.Errorf("%q is no file name: %w", name, syscall.EINVAL)
	}
	dir, err := openat2(unix.AT_FDCWD, path[:len(path)-len(name)], unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", fmt.Errorf("opening its directory: %w", err)
	}
	err = inside(dir, roots)
	if err == nil {
		err = notUsers(dir)
	}
	if err != nil {
		dir.Close()
		return nil, "", err
	}
	return dir, name, nil
}

func openat2(dir int, path string, flags, mode uint64) (*os.File, error) {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Mode:    mode,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// reopen opens what an O_PATH descriptor stands for; the kernel checks the
// user's rights to it again.
func reopen(look *os.File, flags int) (*os.File, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(look.Fd())), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), look.Name()), nil
}

func regular(f *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG && !mutant.Removed(mutant.RegularFiles) {
		return st, fmt.Errorf("not a regular file: %w", syscall.EINVAL)
	}
	return st, nil
}

// beneath reports whether the file's present path lies strictly beneath a root.
func beneath(f *os.File, roots []string) error {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return err
	}
	for _, root := range roots {
		if strings.HasPrefix(path, root+"/") || mutant.Removed(mutant.PolicyRoots) {
			return nil
		}
	}
	return fmt.Errorf("it lies at %s, which is outside the directories that this node's policy allows: %w", path, syscall.EPERM)
}

// inside is beneath, or the root itself.
func inside(dir *os.File, roots []string) error {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())))
	if err != nil {
		return err
	}
	for _, root := range roots {
		if path == root {
			return nil
		}
	}
	return beneath(dir, roots)
}
