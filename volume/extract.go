package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"cloister/secret"
	"cloister/volume/ext4"
)

// ExtractOptions says what to take out of a volume.
type ExtractOptions struct {
	Path      string // of the volume
	To        string // directory to make; may exist if it is empty
	Pinned    Pinned
	VolumeKey secret.Bytes
	// Only is a pattern of path.Match. Without a slash it is tried on every
	// name on the way to a file, otherwise on the path from the top; what lies
	// below a directory that matches is taken too. Empty takes everything.
	Only string
	// Progress, if not nil, is called from one goroutine at a time with the
	// bytes of file contents written so far and those known to come.
	Progress func(done, total int64)
}

// Summary tells what Extract did.
type Summary struct {
	Files, Directories, Symlinks int
	Bytes                        int64 // of contents, holes left out
	// Skipped names devices, FIFOs and sockets, which are never made. Characters
	// that a terminal would obey are escaped.
	Skipped []string
}

// ErrNoMatch says that a pattern matches nothing in the volume.
var ErrNoMatch = errors.New("nothing in the volume matches")

// Extract writes a volume's files to a new directory. It opens the volume with
// the pinned parameters only. With a hash tree, any change to what it reads is
// verity.ErrCorrupt; without one, nothing vouches for the contents.
//
// It writes beside the target and renames at the end, and on any error leaves
// nothing. It never follows a link and never leaves the target. Symbolic links
// are restored as they are, also those that point elsewhere. Permission bits
// and modification times are restored; setuid, setgid, sticky, owner and group
// are not.
func Extract(ctx context.Context, o ExtractOptions) (Summary, error) {
	s, err := extract(ctx, o)
	if err != nil {
		return Summary{}, printableError{fmt.Errorf("extracting the volume %s: %w", o.Path, err)}
	}
	return s, nil
}

func extract(ctx context.Context, o ExtractOptions) (_ Summary, err error) {
	if _, err := path.Match(o.Only, "x"); err != nil {
		return Summary{}, fmt.Errorf("pattern %q: %w", o.Only, err)
	}
	to, err := filepath.Abs(o.To)
	if err != nil {
		return Summary{}, err
	}
	if err := mustBeFree(to); err != nil {
		return Summary{}, err
	}
	v, err := openPayload(o.Path, o.Pinned, o.VolumeKey)
	if err != nil {
		return Summary{}, err
	}
	defer v.Close()
	src, err := v.fileSystem()
	if err != nil {
		return Summary{}, err
	}
	// MkdirTemp makes the directory with mode 0700.
	temp, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.part")
	if err != nil {
		return Summary{}, err
	}
	defer func() {
		if err != nil {
			removeTree(temp)
		}
	}()
	root, err := os.OpenRoot(temp)
	if err != nil {
		return Summary{}, err
	}
	defer root.Close()
	x := extractor{o: o, v: v, root: root, made: map[string]*ext4.File{}, known: map[string]*ext4.File{}, links: map[uint32]string{}}
	if err := x.run(ctx, src); err != nil {
		return Summary{}, err
	}
	if err := x.finishDirs(); err != nil {
		return Summary{}, err
	}
	if err := ctx.Err(); err != nil {
		return Summary{}, context.Cause(ctx)
	}
	if err := os.Rename(temp, to); err != nil {
		return Summary{}, err
	}
	return x.sum, nil
}

func mustBeFree(to string) error {
	st, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s: %w", to, ErrExists)
	}
	entries, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s: %w and is not empty", to, ErrExists)
	}
	return nil
}

// removeTree removes what an unfinished extraction made, also directories
// whose restored mode forbids it.
func removeTree(top string) {
	filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	os.RemoveAll(top)
}

// extractor is one Extract at work: one goroutine walks and makes names, all
// cores copy contents.
type extractor struct {
	o    ExtractOptions
	v    *payload
	root *os.Root
	sum  Summary

	known map[string]*ext4.File // directories seen, when a pattern is given
	made  map[string]*ext4.File // directories made
	order []string              // of made
	links map[uint32]string     // files with several names → the first name made
	dir   *openDir              // where the walk is
	tasks chan task

	progress progress
}

func (x *extractor) run(ctx context.Context, src *ext4.FS) error {
	x.tasks = make(chan task, 2*runtime.GOMAXPROCS(0))
	x.progress.report = x.o.Progress
	walked := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		defer close(x.tasks)
		err := src.Walk(func(v ext4.Visit) error { return x.visit(ctx, v) }, x.leave)
		if x.dir != nil {
			x.dir.release()
		}
		if err != nil {
			cancel(err)
		}
		walked <- err
	}()
	err := parallel(ctx, x.copyAll)
	cancel(err)
	for t := range x.tasks { // after a failure: let the walk end, close its files
		t.out.release()
	}
	if werr := <-walked; err == nil || errors.Is(err, context.Canceled) && werr != nil {
		err = werr
	}
	if err == nil && x.o.Only != "" && x.sum.Files+x.sum.Symlinks+x.sum.Directories == 0 {
		err = fmt.Errorf("%w: %q", ErrNoMatch, x.o.Only)
	}
	x.sum.Bytes = x.progress.done
	return err
}

// leave ends a directory: its handle closes once its last file is written.
func (x *extractor) leave(string) error {
	if x.dir != nil {
		x.dir.release()
		x.dir = nil
	}
	return nil
}

func (x *extractor) visit(ctx context.Context, v ext4.Visit) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p := v.Path()
	if v.File.IsDir() {
		x.known[p] = v.File
	}
	if x.o.Only != "" && !matches(x.o.Only, p) {
		return nil
	}
	if v.File.IsDir() {
		return x.makeDir(p)
	}
	if err := x.makeDir(v.Dir); err != nil {
		return err
	}
	if x.dir == nil {
		r, err := x.root.OpenRoot(v.Dir)
		if err != nil {
			return err
		}
		x.dir = newOpenDir(r)
	}
	if first, ok := x.links[v.File.Number]; ok {
		x.sum.Files++
		return x.root.Link(first, p)
	}
	switch {
	case v.File.IsSymlink():
		target, err := v.File.Readlink()
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if err := x.dir.root.Symlink(target, v.Name); err != nil {
			return err
		}
		x.sum.Symlinks++
	case v.File.IsRegular():
		if err := x.file(ctx, v); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		x.sum.Files++
	default:
		x.sum.Skipped = append(x.sum.Skipped, fmt.Sprintf("%s (%s)", printable(p), v.File.TypeName()))
		return nil
	}
	if v.File.Links > 1 {
		x.links[v.File.Number] = p
	}
	return nil
}

// matches tries the pattern as ExtractOptions.Only says.
func matches(pattern, p string) bool {
	parts := strings.Split(p, "/")
	for i := range parts {
		s := parts[i]
		if strings.Contains(pattern, "/") {
			s = strings.Join(parts[:i+1], "/")
		}
		if ok, err := path.Match(pattern, s); ok && err == nil {
			return true
		}
	}
	return false
}

// makeDir makes a directory and those above it, writable for now.
func (x *extractor) makeDir(p string) error {
	if p == "." || x.made[p] != nil {
		return nil
	}
	if err := x.makeDir(path.Dir(p)); err != nil {
		return err
	}
	if err := x.root.Mkdir(p, 0o700); err != nil {
		return err
	}
	x.made[p] = x.known[p]
	x.order = append(x.order, p)
	x.sum.Directories++
	return nil
}

// finishDirs sets times and modes, inner directories first.
func (x *extractor) finishDirs() error {
	for i := len(x.order) - 1; i >= 0; i-- {
		p := x.order[i]
		f := x.made[p]
		if xs, err := f.Xattrs(); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		} else if len(xs) > 0 {
			d, err := x.root.Open(p)
			if err != nil {
				return err
			}
			err = setXattrs(d, xs)
			d.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
		if err := x.root.Chmod(p, fs.FileMode(f.Perm())); err != nil {
			return err
		}
		if err := x.root.Chtimes(p, modTime(f), modTime(f)); err != nil {
			return err
		}
	}
	return nil
}
