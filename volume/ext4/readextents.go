package ext4

import (
	"errors"
	"fmt"
)

// An Extent maps Count blocks of a file from its block Logical on to the
// file system's blocks from Physical on.
type Extent struct{ Logical, Physical, Count int64 }

// Extents returns the file's blocks that hold data, in order. What no extent
// maps reads as zeros. Call it once for each inode: the blocks are counted
// against those of the whole file system.
func (f *File) Extents() ([]Extent, error) {
	if f.flags&flagExtents == 0 {
		return nil, fmt.Errorf("inode %d: mapped by block lists as in ext3, which is not supported", f.Number)
	}
	w := extentWalk{f: f}
	root := f.raw[0x28:][:60]
	depth := int(le.Uint16(root[6:]))
	if depth > extentMaxDeep {
		return nil, fmt.Errorf("inode %d: extent tree of depth %d", f.Number, depth)
	}
	if err := w.node(root, depth, extentsInInode, 0, 1<<32); err != nil {
		return nil, fmt.Errorf("inode %d: extent tree: %w", f.Number, err)
	}
	return w.out, nil
}

type extentWalk struct {
	f    *File
	out  []Extent
	next int64 // the lowest logical block that may come
}

// node reads one node whose extents must lie in [from, to).
func (w *extentWalk) node(b []byte, depth, room int, from, to int64) error {
	n, limit := int(le.Uint16(b[2:])), int(le.Uint16(b[4:]))
	if le.Uint16(b[0:]) != extentMagic || int(le.Uint16(b[6:])) != depth || limit > room || n > limit {
		return errors.New("header is out of bounds")
	}
	if depth > 0 && n == 0 {
		return errors.New("index node is empty")
	}
	for k := range n {
		e := b[12+12*k:][:12]
		first := int64(le.Uint32(e))
		if first < from || first < w.next || first >= to {
			return errors.New("entries are not in order")
		}
		if depth == 0 {
			if err := w.leaf(e, first, to); err != nil {
				return err
			}
			continue
		}
		end := to
		if k+1 < n {
			end = min(to, int64(le.Uint32(b[12+12*(k+1):])))
		}
		child, err := w.child(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := w.node(child, depth-1, (BlockSize-12)/12, first, end); err != nil {
			return err
		}
	}
	return nil
}

func (w *extentWalk) child(at int64) ([]byte, error) {
	if at < 1 {
		return nil, errors.New("index points outside the file system")
	}
	if err := w.f.fs.claim(1); err != nil {
		return nil, err
	}
	b, err := w.f.fs.block(at)
	if err != nil {
		return nil, err
	}
	if w.f.fs.csum {
		tail := 12 + 12*int(le.Uint16(b[4:]))
		if tail+4 > BlockSize || le.Uint32(b[tail:]) != crc(w.f.seed, b[:tail]) {
			return nil, fmt.Errorf("block %d: checksum does not match", at)
		}
	}
	return b, nil
}

func (w *extentWalk) leaf(e []byte, first, to int64) error {
	count := int64(le.Uint16(e[4:]))
	unwritten := count > extentMaxInit
	if unwritten {
		count -= extentMaxInit
	}
	at := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
	fs := w.f.fs
	if count == 0 || first+count > to || at < 1 || at > fs.blocks-count {
		return errors.New("extent is out of bounds")
	}
	if err := fs.claim(count); err != nil {
		return err
	}
	w.next = first + count
	if w.f.IsRegular() && fs.replayed != nil && fs.replayed.holds(at, count) {
		return errors.New("contents in the journal are not supported")
	}
	if !unwritten {
		w.out = append(w.out, Extent{first, at, count})
	}
	return nil
}
