package volume

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cloister/volume/ext4"
)

// openDir is a directory of the target, open until the last of its files is
// finished.
type openDir struct {
	root *os.Root
	refs atomic.Int64
}

func newOpenDir(r *os.Root) *openDir {
	d := &openDir{root: r}
	d.refs.Store(1)
	return d
}

func (d *openDir) release() {
	if d.refs.Add(-1) == 0 {
		d.root.Close()
	}
}

// outFile is a file of the target while its pieces are copied.
type outFile struct {
	f    *os.File
	dir  *openDir
	name string
	path string // from the top of the volume, for errors
	from *ext4.File
	xs   []ext4.Xattr
	refs atomic.Int64

	writing sync.Mutex // see parallel
}

func (o *outFile) write(b []byte, at int64) error {
	o.writing.Lock()
	defer o.writing.Unlock()
	_, err := o.f.WriteAt(b, at)
	return err
}

// release closes the file with its last piece and drops its hold on dir.
func (o *outFile) release() error {
	if o.refs.Add(-1) != 0 {
		return nil
	}
	defer o.dir.release()
	return o.f.Close()
}

// finish restores attributes, once all pieces are written.
func (o *outFile) finish() error {
	if err := setXattrs(o.f, o.xs); err != nil {
		return err
	}
	if err := o.f.Chmod(fs.FileMode(o.from.Perm())); err != nil {
		return err
	}
	return o.dir.root.Chtimes(o.name, modTime(o.from), modTime(o.from))
}

func modTime(f *ext4.File) time.Time { return time.Unix(f.Seconds, int64(f.Nanos)) }

// A task is a piece of a file, at most chunkSize bytes: blocks of the payload
// from off on go to offset at of the file, cut at the file's size.
type task struct {
	out     *outFile
	off, at int64
	n       int64
	pending *atomic.Int64 // pieces of this file that are not written yet
}

// file makes a regular file and hands its pieces to the workers.
func (x *extractor) file(ctx context.Context, v ext4.Visit) error {
	extents, err := v.File.Extents()
	if err != nil {
		return err
	}
	xs, err := v.File.Xattrs()
	if err != nil {
		return err
	}
	f, err := x.dir.root.OpenFile(v.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	x.dir.refs.Add(1)
	out := &outFile{f: f, dir: x.dir, name: v.Name, path: v.Path(), from: v.File, xs: xs}
	out.refs.Store(1) // this function's
	defer out.release()
	if err := f.Truncate(v.File.Size); err != nil {
		return err
	}
	var pieces []task
	pending := &atomic.Int64{}
	for _, e := range extents {
		from, end := e.Logical*ext4.BlockSize, (e.Logical+e.Count)*ext4.BlockSize
		end = min(end, (v.File.Size+ext4.BlockSize-1)/ext4.BlockSize*ext4.BlockSize)
		for at := from; at < end; at += chunkSize {
			pieces = append(pieces, task{out, e.Physical*ext4.BlockSize + at - from, at, min(chunkSize, end-at), pending})
		}
	}
	if len(pieces) == 0 {
		return out.finish()
	}
	pending.Store(int64(len(pieces)))
	for _, p := range pieces {
		x.progress.expect(p.n)
		out.refs.Add(1)
		select {
		case x.tasks <- p:
		case <-ctx.Done():
			out.release()
			return context.Cause(ctx)
		}
	}
	return nil
}

// copyAll is one worker.
func (x *extractor) copyAll(ctx context.Context) error {
	buf := make([]byte, chunkSize)
	c := x.v.checker()
	for t := range x.tasks {
		if ctx.Err() != nil {
			t.out.release()
			return context.Cause(ctx)
		}
		err := x.copyPiece(c, buf, t)
		if cerr := t.out.release(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.out.path, err)
		}
	}
	return nil
}

func (x *extractor) copyPiece(c checker, buf []byte, t task) error {
	if err := x.v.readBlocks(c, buf[:t.n], t.off); err != nil {
		return err
	}
	n := min(t.n, t.out.from.Size-t.at)
	if err := t.out.write(buf[:n], t.at); err != nil {
		return err
	}
	x.progress.add(n)
	if t.pending.Add(-1) == 0 {
		return t.out.finish()
	}
	return nil
}

// progress counts bytes and reports them.
type progress struct {
	mu          sync.Mutex
	done, total int64
	report      func(done, total int64)
}

func (p *progress) expect(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += n
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.report != nil {
		p.report(p.done, p.total)
	}
}
