package ext4

import (
	"errors"
	"fmt"
)

// A DirEntry is a name in a directory as it was read.
type DirEntry struct {
	Name   string
	Number uint32 // of the inode
	kind   byte
}

// ReadDir returns the entries without "." and "..". Names are checked: none
// holds a slash or a zero byte or means another directory. Hash tree
// directories are read block by block like the others.
func (f *File) ReadDir() ([]DirEntry, error) {
	if !f.IsDir() {
		return nil, fmt.Errorf("inode %d: not a directory", f.Number)
	}
	ex, err := f.Extents()
	if err != nil {
		return nil, err
	}
	var out []DirEntry
	next, blocks := int64(0), f.Size/BlockSize
	for _, e := range ex {
		for k := range e.Count {
			if e.Logical+k >= blocks {
				break
			}
			if e.Logical+k != next {
				return nil, fmt.Errorf("inode %d: directory has a hole", f.Number)
			}
			next++
			b, err := f.fs.block(e.Physical + k)
			if err != nil {
				return nil, fmt.Errorf("inode %d: directory: %w", f.Number, err)
			}
			if out, err = f.dirBlock(out, b, e.Logical+k); err != nil {
				return nil, fmt.Errorf("inode %d: directory block %d: %w", f.Number, e.Logical+k, err)
			}
		}
	}
	if next != blocks {
		return nil, fmt.Errorf("inode %d: directory has a hole", f.Number)
	}
	return out, nil
}

func (f *File) dirBlock(out []DirEntry, b []byte, index int64) ([]DirEntry, error) {
	if f.fs.csum {
		if err := f.checkDirBlock(b, index); err != nil {
			return nil, err
		}
	}
	for at, n := 0, 0; at < BlockSize; n++ {
		if BlockSize-at < 8 {
			return nil, errors.New("entry is cut off")
		}
		number, size, nameLen := le.Uint32(b[at:]), int(le.Uint16(b[at+4:])), int(b[at+6])
		if size < 8+nameLen || size%4 != 0 || size > BlockSize-at {
			return nil, errors.New("entry is out of bounds")
		}
		e := DirEntry{string(b[at+8:][:nameLen]), number, b[at+7]}
		at += size
		if index == 0 && n < 2 {
			if e.Name != [2]string{".", ".."}[n] || n == 0 && number != f.Number {
				return nil, errors.New("the entries . and .. are not the first ones")
			}
			continue
		}
		if number == 0 {
			continue // free space, checksum tail or hash tree node
		}
		if err := validName(e.Name); err != nil {
			return nil, fmt.Errorf("entry %.40q: %w", e.Name, err)
		}
		if number > f.fs.inodes || number < firstInode {
			return nil, fmt.Errorf("entry %.40q: inode %d is out of bounds", e.Name, number)
		}
		out = append(out, e)
	}
	return out, nil
}

// checkDirBlock checks the checksum of a leaf or, in a hash tree directory,
// of its root or of an inner node.
func (f *File) checkDirBlock(b []byte, index int64) error {
	bad := errors.New("checksum does not match")
	countAt := 0
	if f.flags&flagIndex != 0 {
		switch {
		case index == 0:
			countAt = 0x20 // after ".", ".." and dx_root_info
		case le.Uint32(b) == 0 && le.Uint16(b[4:]) == BlockSize:
			countAt = 8
		}
	}
	if countAt == 0 {
		tail := b[BlockSize-dirTail:]
		if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != dirTail || tail[7] != 0xDE || le.Uint32(tail[8:]) != crc(f.seed, b[:BlockSize-dirTail]) {
			return bad
		}
		return nil
	}
	limit, count := int(le.Uint16(b[countAt:])), int(le.Uint16(b[countAt+2:]))
	end := countAt + 8*count
	tail := countAt + 8*limit
	if count > limit || tail+8 > BlockSize {
		return bad
	}
	c := crc(crc(f.seed, b[:end]), b[tail:tail+4])
	if crc(c, make([]byte, 4)) != le.Uint32(b[tail+4:]) {
		return bad
	}
	return nil
}
