package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"

	"cloister/secret"
	"cloister/volume/ext4"
)

// A File is a regular file in a volume, open for reading at any place. With a
// hash tree, a change to what is read is verity.ErrCorrupt.
type File struct {
	v       *payload
	size    int64
	extents []ext4.Extent
}

// OpenFile opens the file with that slash-separated path from the volume's top,
// with the pinned parameters only. It follows no symbolic link. An error wraps
// fs.ErrNotExist if there is no such file.
func OpenFile(volume string, p Pinned, volumeKey secret.Bytes, name string) (*File, error) {
	v, err := openPayload(volume, p, volumeKey)
	if err != nil {
		return nil, err
	}
	f, err := v.find(name)
	if err != nil {
		v.Close()
		return nil, printableError{fmt.Errorf("opening %q in the volume %s: %w", name, volume, err)}
	}
	return f, nil
}

func (v *payload) find(name string) (*File, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	src, err := v.fileSystem()
	if err != nil {
		return nil, err
	}
	at, err := src.Root()
	if err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(name, "/") {
		if !at.IsDir() {
			return nil, fs.ErrNotExist
		}
		entries, err := at.ReadDir()
		if err != nil {
			return nil, err
		}
		number := uint32(0)
		for _, e := range entries {
			if e.Name == part {
				number = e.Number
			}
		}
		if number == 0 {
			return nil, fs.ErrNotExist
		}
		if at, err = src.Inode(number); err != nil {
			return nil, err
		}
	}
	if !at.IsRegular() {
		return nil, errors.New("it is not a regular file, and links are not followed")
	}
	extents, err := at.Extents()
	if err != nil {
		return nil, err
	}
	return &File{v, at.Size, extents}, nil
}

// Size of the file, in bytes.
func (f *File) Size() int64 { return f.size }

// Close closes the volume.
func (f *File) Close() error { return f.v.Close() }

// ReadAt reads as io.ReaderAt says. Holes are zeros and cost no reading.
func (f *File) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("reading before the beginning of a file")
	}
	for n < len(b) {
		at := off + int64(n)
		if at >= f.size {
			return n, io.EOF
		}
		part := b[n:][:min(int64(len(b)-n), f.size-at)]
		m, err := f.readPiece(part, at)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readPiece reads as much as lies in one extent, or in the hole before the next.
func (f *File) readPiece(b []byte, at int64) (int, error) {
	i := sort.Search(len(f.extents), func(i int) bool {
		return (f.extents[i].Logical+f.extents[i].Count)*ext4.BlockSize > at
	})
	if i == len(f.extents) {
		clear(b)
		return len(b), nil
	}
	e := f.extents[i]
	begin := e.Logical * ext4.BlockSize
	if at < begin {
		b = b[:min(int64(len(b)), begin-at)]
		clear(b)
		return len(b), nil
	}
	b = b[:min(int64(len(b)), begin+e.Count*ext4.BlockSize-at)]
	return f.v.ReadAt(b, e.Physical*ext4.BlockSize+at-begin)
}
