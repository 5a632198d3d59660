package volume

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cloister/secret"
	"cloister/volume/ext4"
)

// GrowOptions says how to make a volume for writing larger.
type GrowOptions struct {
	Path      string
	Pinned    Pinned
	VolumeKey secret.Bytes
	// Create has the options of the volume that takes the old one's place, all
	// but where its contents come from and where it goes.
	Create CreateOptions
}

// Grow replaces a volume for writing by one with the same contents and more
// room. It is made beside the old one, under new keys, and takes its name when
// it is complete, so that nothing is lost at any moment; there must be space
// for both. Until then no job can open the old one for writing. Owners and groups are not kept, as in Create.
//
// The new volume has new keys because the file's old state may have been
// copied: under one key, two states of a sector show where they are equal.
func Grow(ctx context.Context, o GrowOptions) (Pinned, Keys, error) {
	p, k, err := grow(ctx, o)
	if err != nil {
		return Pinned{}, Keys{}, printableError{fmt.Errorf("growing the volume %s: %w", o.Path, err)}
	}
	return p, k, nil
}

func grow(ctx context.Context, o GrowOptions) (Pinned, Keys, error) {
	if o.Pinned.Verity != nil {
		return Pinned{}, Keys{}, errors.New("it is for reading: nothing can be added to it")
	}
	if o.Pinned.Integrity != nil {
		return Pinned{}, Keys{}, errors.New("it is authenticated, and only a node makes such volumes: extract it, and seal a job that makes a larger one")
	}
	v, err := openPayload(o.Path, o.Pinned, o.VolumeKey)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	defer v.Close()
	c := o.Create
	c.Path, c.Writable, c.Force, c.volume = o.Path, true, true, v
	return create(ctx, c)
}

// volumeTree is a volume's contents as the source of another.
type volumeTree struct {
	root  *ext4.Inode
	files map[*ext4.Inode]*fileIn
}

// fromVolume writes the payload from another volume's contents.
func (w *writer) fromVolume(ctx context.Context, uuid string, layout ext4.Options, keys Keys) (err error) {
	if w.volume, err = readTree(ctx, w.o.volume); err != nil {
		return err
	}
	if err := w.begin(keys); err != nil {
		return err
	}
	if err := w.plan(uuid, w.volume.root, layout); err != nil {
		return err
	}
	return parallel(ctx, w.chunks)
}

func readTree(ctx context.Context, v *payload) (*volumeTree, error) {
	src, err := v.fileSystem()
	if err != nil {
		return nil, err
	}
	top, err := src.Root()
	if err != nil {
		return nil, err
	}
	t := &volumeTree{files: map[*ext4.Inode]*fileIn{}}
	if t.root, err = t.inode(v, ".", top); err != nil {
		return nil, err
	}
	dirs := map[string]*ext4.Inode{".": t.root}
	links := map[uint32]*ext4.Inode{}
	err = src.Walk(func(e ext4.Visit) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i := links[e.File.Number]
		if e.First == "" {
			if i, err = t.inode(v, e.Path(), e.File); err != nil {
				return fmt.Errorf("%s: %w", e.Path(), err)
			}
			if e.File.IsDir() {
				dirs[e.Path()] = i
			} else if e.File.Links > 1 {
				links[e.File.Number] = i
			}
		}
		d := dirs[e.Dir]
		d.Entries = append(d.Entries, ext4.Entry{Name: e.Name, Inode: i})
		return nil
	}, func(string) error { return nil })
	return t, err
}

// inode describes a file as it is to be written again.
func (t *volumeTree) inode(v *payload, p string, f *ext4.File) (*ext4.Inode, error) {
	i := &ext4.Inode{Mode: f.Mode &^ 0o7000, Path: p, Seconds: f.Seconds, Nanos: f.Nanos}
	var err error
	if i.Xattrs, err = f.Xattrs(); err != nil {
		return nil, err
	}
	switch {
	case f.IsDir():
	case f.IsSymlink():
		i.Target, err = f.Readlink()
	case f.IsRegular():
		i.Size, i.Holes = f.Size, true
		in := &fileIn{v: v}
		if in.extents, err = f.Extents(); err != nil {
			return nil, err
		}
		end := (f.Size + ext4.BlockSize - 1) / ext4.BlockSize
		for _, e := range in.extents {
			if n := min(e.Count, end-e.Logical); n > 0 {
				i.Data = append(i.Data, ext4.Run{First: uint32(e.Logical), Count: uint32(n)})
			}
		}
		t.files[i] = in
	default:
		err = fmt.Errorf("it is a %s: a volume that the client makes holds only files, directories and symbolic links", f.TypeName())
	}
	return i, err
}

// fileIn reads a file's blocks in a volume. Only ranges that lie in one run of
// data are asked for, but such a run may be several extents.
type fileIn struct {
	v       *payload
	extents []ext4.Extent
}

func (f *fileIn) ReadAt(b []byte, off int64) (n int, err error) {
	for _, e := range f.extents {
		from, to := e.Logical*ext4.BlockSize, (e.Logical+e.Count)*ext4.BlockSize
		if at := off + int64(n); n < len(b) && at >= from && at < to {
			part := b[n:min(int64(len(b)), int64(n)+to-at)]
			m, err := f.v.ReadAt(part, e.Physical*ext4.BlockSize+at-from)
			if n += m; err != nil {
				return n, err
			}
		}
	}
	if n < len(b) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}
