package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"cloister/volume/ext4"
)

// Unix file types, as ext4 and stat have them.
const (
	modeDir     = 0x4000
	modeRegular = 0x8000
	modeSymlink = 0xA000
)

// scanner reads the names and attributes of a directory tree.
//
// What it keeps: names, permission bits, modification times, symbolic links,
// hard links within the tree, holes, extended attributes in the namespace
// user (Linux). What it drops: owner and group (all is 0:0, which the node
// maps to the job's user), setuid, setgid and sticky bits, ACLs and other
// attributes, access and creation times. Devices, FIFOs and sockets are errors.
type scanner struct {
	root  *os.Root
	top   string
	links map[fileID]*ext4.Inode
}

// fileID tells files apart that have several names.
type fileID struct{ dev, ino uint64 }

func scan(ctx context.Context, root *os.Root) (*ext4.Inode, error) {
	s := scanner{root, root.Name(), map[fileID]*ext4.Inode{}}
	info, err := root.Stat(".")
	if err != nil {
		return nil, err
	}
	top := newInode(".", info, modeDir)
	if err := s.xattrs(top); err != nil {
		return nil, err
	}
	stack := []*ext4.Inode{top}
	for len(stack) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if err := s.dir(d); err != nil {
			return nil, err
		}
		for _, e := range d.Entries {
			if e.Inode.Mode&^0o7777 == modeDir {
				stack = append(stack, e.Inode)
			}
		}
	}
	return top, nil
}

func newInode(p string, info os.FileInfo, kind uint16) *ext4.Inode {
	return &ext4.Inode{
		Mode: kind | uint16(info.Mode().Perm()), Path: p,
		Seconds: info.ModTime().Unix(), Nanos: uint32(info.ModTime().Nanosecond()),
	}
}

func (s *scanner) dir(d *ext4.Inode) error {
	f, err := s.root.Open(d.Path)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return fmt.Errorf("listing %s: %w", d.Path, err)
	}
	d.Entries = make([]ext4.Entry, 0, len(names))
	for _, n := range names {
		i, err := s.file(path.Join(d.Path, n))
		if err != nil {
			return err
		}
		d.Entries = append(d.Entries, ext4.Entry{Name: n, Inode: i})
	}
	return nil
}

func (s *scanner) file(p string) (*ext4.Inode, error) {
	info, err := s.root.Lstat(p)
	if err != nil {
		return nil, err
	}
	id, several := identity(info)
	if i := s.links[id]; several && i != nil {
		return i, nil
	}
	var i *ext4.Inode
	switch t := info.Mode().Type(); t {
	case os.ModeDir:
		several = false
		i = newInode(p, info, modeDir)
	case os.ModeSymlink:
		i = newInode(p, info, modeSymlink)
		if i.Target, err = s.root.Readlink(p); err != nil {
			return nil, err
		}
	case 0:
		i = newInode(p, info, modeRegular)
		i.Size = info.Size()
		if err := s.holes(i, info); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%s is a %s: a volume holds only files, directories and symbolic links", p, kindName(t))
	}
	if err := s.xattrs(i); err != nil {
		return nil, err
	}
	if several {
		s.links[id] = i
	}
	return i, nil
}

func kindName(t os.FileMode) string {
	switch {
	case t&os.ModeNamedPipe != 0:
		return "FIFO"
	case t&os.ModeSocket != 0:
		return "socket"
	case t&os.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// sources opens the scanned files for one worker, which mostly asks for the
// same file again. A file that changed since the scan is an error.
type sources struct {
	root   *os.Root
	volume *volumeTree // contents come from a volume instead
	inode  *ext4.Inode
	f      *os.File
}

func (s *sources) open(i *ext4.Inode) (io.ReaderAt, error) {
	if s.inode == i {
		return s.f, nil
	}
	if s.volume != nil {
		return s.volume.files[i], nil
	}
	s.close()
	f, err := s.root.OpenFile(i.Path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != i.Size || info.ModTime().Unix() != i.Seconds || uint32(info.ModTime().Nanosecond()) != i.Nanos) {
		err = errors.New("it changed while the volume was made")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading %s: %w", i.Path, err)
	}
	s.f, s.inode = f, i
	return f, nil
}

func (s *sources) close() {
	if s.f != nil {
		s.f.Close()
		s.f, s.inode = nil, nil
	}
}
