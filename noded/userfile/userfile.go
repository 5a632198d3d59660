// Package userfile opens, creates and removes files with exactly the rights
// that a user has, for paths that the user chose.
//
// Volumes and images lie on shared file systems where the node's root may have
// no rights (NFS root_squash) and must not use those that it has: a path from a
// manifest could name another user's file. Each call runs in a helper process
// (package helper) that has become the user for good, with a deadline, so that
// a dead file server gives an error and not a hung daemon.
//
// What it refuses: files that are not regular (FIFOs and devices are never
// opened, only looked at), files that do not lie beneath one of the policy's
// roots, /proc-style magic links, and to write to a file of another owner.
// Symbolic links are followed, because users have them inside their own trees
// (project directories, scratch). That is safe because the user's own rights
// decide at each step, and because the place is judged by the opened file and
// not by its name.
package userfile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/helper"
)

// User is whose rights are used. Root is refused.
type User = helper.User

// Mode says what the file is opened for.
type Mode int

// The modes.
const (
	ReadOnly  Mode = iota // any file that the user may read
	ReadWrite             // only the user's own files
)

// MaxPath is PATH_MAX of limits.h, the longest path that the kernel takes.
const MaxPath = 4096

var (
	verbOpen   = helper.Register("userfile-open", handleOpen)
	verbCreate = helper.Register("userfile-create", handleCreate)
	verbRemove = helper.Register("userfile-remove", handleRemove)
)

// request is what the helper gets.
type request struct {
	Roots []string `json:"roots"` // absolute
	Path  string   `json:"path"`  // absolute
	Mode  Mode     `json:"mode"`
	UID   uint32   `json:"uid"`
	Size  int64    `json:"size"` // bytes, create only
}

// Open opens a regular file. A relative path starts at dir. The file must lie
// beneath one of roots, which are absolute paths of directories. Errors carry
// the errno; helper.ErrDeadline means that the file server did not answer.
func Open(ctx context.Context, u User, roots []string, dir, path string, mode Mode) (*os.File, error) {
	r, err := newRequest(u, roots, dir, path)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	r.Mode = mode
	access := unix.O_RDONLY
	if mode == ReadWrite {
		access = unix.O_RDWR
	}
	f, err := run(ctx, verbOpen, u, r, access)
	if err != nil {
		return nil, fmt.Errorf("opening %s as uid %d: %w", r.Path, u.UID, err)
	}
	return f, nil
}

// Create makes a new regular file of size bytes, sparse, mode 0600, owned by
// the user, and returns it open for reading and writing. A file of that name
// is an error (syscall.EEXIST), as is a link of that name wherever it leads.
func Create(ctx context.Context, u User, roots []string, dir, path string, size int64) (*os.File, error) {
	r, err := newRequest(u, roots, dir, path)
	if err != nil {
		return nil, fmt.Errorf("creating %q: %w", path, err)
	}
	if size <= 0 {
		return nil, fmt.Errorf("creating %s: size of %d bytes", r.Path, size)
	}
	r.Size = size
	f, err := run(ctx, verbCreate, u, r, unix.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("creating %s as uid %d: %w", r.Path, u.UID, err)
	}
	return f, nil
}

// Remove unlinks what Create made, if the name still stands for f. It is the
// undo of a creation that led to nothing.
func Remove(ctx context.Context, u User, roots []string, dir, path string, f *os.File) error {
	r, err := newRequest(u, roots, dir, path)
	if err != nil {
		return fmt.Errorf("removing %q: %w", path, err)
	}
	if _, err := verbRemove.Run(ctx, &u, r, []*os.File{f}, nil); err != nil {
		return fmt.Errorf("removing %s as uid %d: %w", r.Path, u.UID, err)
	}
	return nil
}

func newRequest(u User, roots []string, dir, path string) (request, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return request{}, fmt.Errorf("empty path or NUL in it")
	}
	if strings.HasSuffix(path, "/") {
		return request{}, fmt.Errorf("the path names a directory")
	}
	full := path
	if !filepath.IsAbs(path) {
		if !filepath.IsAbs(dir) {
			return request{}, fmt.Errorf("directory %q is not absolute", dir)
		}
		// Not filepath.Join: "link/../x" means what the kernel makes of it.
		full = dir + "/" + path
	}
	if len(full) >= MaxPath {
		return request{}, fmt.Errorf("path of %d bytes is too long", len(full))
	}
	if len(roots) == 0 {
		return request{}, fmt.Errorf("the policy allows no directory")
	}
	for _, root := range roots {
		if !filepath.IsAbs(root) || filepath.Clean(root) != root || root == "/" {
			return request{}, fmt.Errorf("policy root %q is not a clean absolute path below /", root)
		}
	}
	return request{Roots: roots, Path: full, UID: u.UID}, nil
}

// run gets one file from the helper and checks it again on this side, with
// calls that ask no file server.
func run(ctx context.Context, v *helper.Verb, u User, r request, access int) (*os.File, error) {
	files, err := v.Run(ctx, &u, r, nil, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("helper sent %d files", len(files))
	}
	f, err := dup(files[0], r.Path)
	if err != nil {
		return nil, err
	}
	if err := recheck(f, access); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// dup gives the file the name that the user knows it by.
func dup(f *os.File, name string) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicating a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func recheck(f *os.File, access int) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("reading open flags: %w", err)
	}
	if flags&(unix.O_ACCMODE|unix.O_PATH) != access {
		return fmt.Errorf("helper sent a file with open flags %#x", flags)
	}
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return fmt.Errorf("examining the file: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG && !mutant.Removed(mutant.RegularFiles) {
		return fmt.Errorf("helper sent something other than a regular file")
	}
	return nil
}
