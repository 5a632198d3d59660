package jobview

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/noded/jobview/detached"
)

// A root is the view's tree while it is built: attached on a directory of the
// copied host tree, not yet the thread's root.
type root struct {
	dir *os.File // root directory of the view
	at  string   // where that lies for now
}

func newRoot(at string, limit int64) (*root, error) {
	m, err := detached.New("tmpfs", []string{"mode=0755", "size=" + strconv.FormatInt(limit, 10)}, detached.NoSuid|detached.NoDev)
	if err != nil {
		return nil, err
	}
	target, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		m.Close()
		return nil, err
	}
	defer target.Close()
	if err := detached.Attach(m, target); err != nil {
		m.Close()
		return nil, err
	}
	// at may lead through links; d_path never does.
	if at, err = os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(int(m.Fd()))); err != nil {
		m.Close()
		return nil, err
	}
	return &root{m, at}, nil
}

// open opens what path is in the view, as O_PATH. Links are followed inside
// the view.
func (r *root) open(path string) (*os.File, error) {
	fd, err := unix.Openat2(int(r.dir.Fd()), path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "opening in the view", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ensure opens the directory and makes it and its parents where the view is in
// memory. New directories belong to uid and gid.
func (r *root) ensure(path string, mode uint32, uid, gid int) (*os.File, error) {
	d, err := r.open(path)
	if !errors.Is(err, os.ErrNotExist) || path == "/" {
		return d, err
	}
	parent, err := r.ensure(filepath.Dir(path), mode, uid, gid)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	name := filepath.Base(path)
	if err := unix.Mkdirat(int(parent.Fd()), name, mode); err != nil {
		if errors.Is(err, unix.EEXIST) {
			// A link to what is not there yet (/home to /shared/home): make that.
			return r.ensureTarget(parent, path, mode, uid, gid)
		}
		if errors.Is(err, unix.EROFS) {
			return nil, fmt.Errorf("making %s in the view: %w", path, errNotHere)
		}
		return nil, &os.PathError{Op: "making in the view", Path: path, Err: err}
	}
	if err := unix.Fchownat(int(parent.Fd()), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &os.PathError{Op: "giving in the view", Path: path, Err: err}
	}
	return r.open(path)
}

func (r *root) ensureTarget(parent *os.File, path string, mode uint32, uid, gid int) (*os.File, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(parent.Fd()), filepath.Base(path), buf)
	if err != nil {
		return nil, &os.PathError{Op: "making in the view", Path: path, Err: unix.ENOTDIR}
	}
	target := string(buf[:n])
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	d, err := r.ensure(filepath.Clean(target), mode, uid, gid)
	if err != nil {
		return nil, err
	}
	d.Close()
	return r.open(path)
}

// exact refuses a place that was reached through a symbolic link.
func (r *root) exact(f *os.File, path string) error {
	at, err := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return err
	}
	if at != r.at+strings.TrimSuffix(path, "/") {
		return fmt.Errorf("%s leads elsewhere through a link", path)
	}
	return nil
}

// cover attaches a fresh file system of the type to the directory path and
// returns its root.
func (r *root) cover(path, fstype string, options []string, attrs int) (*os.File, error) {
	target, err := r.open(path)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	m, err := detached.New(fstype, options, attrs)
	if err != nil {
		return nil, fmt.Errorf("covering %s: %w", path, err)
	}
	if err := detached.Attach(m, target); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// pivot makes the view the thread's root and drops the host's tree.
func (r *root) pivot() error {
	if err := unix.Fchdir(int(r.dir.Fd())); err != nil {
		return fmt.Errorf("entering the view: %w", err)
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up stacked on the
	// new one and is then unmounted from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("dropping the host's tree: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	return nil
}
