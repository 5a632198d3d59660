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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

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
	New                   // none: the name must be free, where the user may make a file of it
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
	More  []File   `json:"more"` // open only: besides Path, absolute
	Made  Made     `json:"made"` // remove only
}

// A File is one to open.
type File struct {
	Path string `json:"path"`
	Mode Mode   `json:"mode"`
}

func (f File) doing() string {
	if f.Mode == New {
		return "making"
	}
	return "opening"
}

// access is with what flags it is opened.
func (f File) access() int {
	if f.Mode == ReadWrite {
		return unix.O_RDWR
	}
	return unix.O_RDONLY
}

// A FileError says which of several files could not be opened.
type FileError struct {
	Index int
	Err   error
}

func (e *FileError) Error() string { return e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

// failure is how the helper says that.
type failure struct {
	Index int    `json:"index"`
	Text  string `json:"text"`
	Errno int    `json:"errno"`
}

// Open opens a regular file. A relative path starts at dir. The file must lie
// beneath one of roots, which are absolute paths of directories. Errors carry
// the errno; helper.ErrDeadline means that the file server did not answer.
func Open(ctx context.Context, u User, roots []string, dir, path string, mode Mode) (*os.File, error) {
	files, err := OpenAll(ctx, u, roots, dir, []File{{path, mode}})
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// together is how many files one helper opens: their paths must fit a request.
const together = 8

// OpenAll is Open for several files: it takes a helper process for each eight of
// them, one after the other. It opens all or none; one that is New is looked for,
// and is nil. Its errors are FileErrors, unless none of the files is to blame.
func OpenAll(ctx context.Context, u User, roots []string, dir string, files []File) (opened []*os.File, err error) {
	for first := 0; first < len(files); first += together {
		some, err := openSome(ctx, u, roots, dir, files[first:min(first+together, len(files))])
		if err != nil {
			closeAll(opened)
			var which *FileError
			if errors.As(err, &which) {
				which.Index += first
			}
			return nil, err
		}
		opened = append(opened, some...)
	}
	return opened, nil
}

func openSome(ctx context.Context, u User, roots []string, dir string, files []File) ([]*os.File, error) {
	var r request
	for i, f := range files {
		one, err := newRequest(u, roots, dir, f.Path)
		if err != nil {
			return nil, &FileError{i, fmt.Errorf("%s %q: %w", f.doing(), f.Path, err)}
		}
		if i == 0 {
			r = one
			r.Mode = f.Mode
		} else {
			r.More = append(r.More, File{one.Path, f.Mode})
		}
	}
	var failed *failure
	got, err := verbOpen.Run(ctx, &u, r, nil, &failed)
	switch {
	case err != nil && len(files) == 1:
		return nil, &FileError{0, fmt.Errorf("%s %s as uid %d: %w", files[0].doing(), r.Path, u.UID, err)}
	case err != nil:
		return nil, fmt.Errorf("opening files as uid %d: %w", u.UID, err)
	case failed != nil && failed.Index >= 0 && failed.Index < len(files):
		closeAll(got)
		err := &helper.Error{Text: failed.Text, Errno: syscall.Errno(failed.Errno)}
		which := r.files()[failed.Index]
		return nil, &FileError{failed.Index, fmt.Errorf("%s %s as uid %d: %w", which.doing(), which.Path, u.UID, err)}
	}
	isNew := func(f File) bool { return f.Mode == New }
	opened, err := accept(got, slices.DeleteFunc(r.files(), isNew))
	if err != nil {
		return nil, fmt.Errorf("opening files as uid %d: %w", u.UID, err)
	}
	for i, f := range files {
		if isNew(f) {
			opened = slices.Insert(opened, i, nil)
		}
	}
	return opened, nil
}

// files are those of a request to open.
func (r request) files() []File { return append([]File{{r.Path, r.Mode}}, r.More...) }

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
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
	f, err := run(ctx, verbCreate, u, r)
	if err != nil {
		return nil, fmt.Errorf("creating %s as uid %d: %w", r.Path, u.UID, err)
	}
	return f, nil
}

// A Made says which file a creation makes, so that also a process that did not
// make it can take it back.
type Made struct {
	Path string `json:"path"` // absolute
	Size int64  `json:"size"` // bytes
	// Dev and Ino are of inode(7); 0 until the file was made.
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// Note puts into m which file was made.
func (m *Made) Note(f *os.File) error {
	st, err := regular(f)
	if err != nil {
		return fmt.Errorf("looking at %s, which was made: %w", m.Path, err)
	}
	m.Dev, m.Ino = st.Dev, st.Ino
	return nil
}

// Remove unlinks what Create made, or began to make: the file that was noted, or
// one of that size, or empty, without a byte in it. It is the undo of a creation
// that led to nothing, and content if the name stands for no file. One that stands
// for another file is an error.
func Remove(ctx context.Context, u User, roots []string, m Made) error {
	r, err := newRequest(u, roots, "", m.Path)
	if err != nil {
		return fmt.Errorf("removing %q: %w", m.Path, err)
	}
	r.Made = m
	if _, err := verbRemove.Run(ctx, &u, r, nil, nil); err != nil {
		return fmt.Errorf("removing %s as uid %d: %w", r.Path, u.UID, err)
	}
	return nil
}

// Absolute is where a path leads that may start at dir. It is not
// filepath.Join: "link/../x" means what the kernel makes of it.
func Absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return dir + "/" + path
}

func newRequest(u User, roots []string, dir, path string) (request, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return request{}, fmt.Errorf("empty path or NUL in it")
	}
	if strings.HasSuffix(path, "/") {
		return request{}, fmt.Errorf("the path names a directory")
	}
	full := Absolute(dir, path)
	if !filepath.IsAbs(full) {
		return request{}, fmt.Errorf("directory %q is not absolute", dir)
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

// run gets one new file from the helper.
func run(ctx context.Context, v *helper.Verb, u User, r request) (*os.File, error) {
	files, err := v.Run(ctx, &u, r, nil, nil)
	if err != nil {
		return nil, err
	}
	opened, err := accept(files, []File{{r.Path, ReadWrite}})
	if err != nil {
		return nil, err
	}
	return opened[0], nil
}

// accept looks at what the helper sent again on this side, with calls that ask
// no file server. It takes the files over.
func accept(got []*os.File, want []File) (opened []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(opened)
			opened = nil
		}
	}()
	if len(got) != len(want) {
		closeAll(got)
		return nil, fmt.Errorf("helper sent %d files", len(got))
	}
	for i, f := range got {
		named, err := dup(f, want[i].Path)
		if err != nil {
			closeAll(got[i+1:])
			return opened, err
		}
		opened = append(opened, named)
		if err := recheck(named, want[i].access()); err != nil {
			closeAll(got[i+1:])
			return opened, err
		}
	}
	return opened, nil
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
