package volume

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"cloister/volume/ext4"
)

// tarXattr is how tar programs name extended attributes in PAX records; only
// the namespace user is kept.
const tarXattr = "SCHILY.xattr.user."

// maxFileSize is ext4's limit with blocks of 4096 bytes.
const maxFileSize = 1 << 44

// ErrTar says that a tar stream is no tar stream, ends too early or holds what a
// volume does not.
var ErrTar = errors.New("reading the tar stream")

// tarTree reads a tar stream: names and attributes into memory, contents into
// batches of whole blocks. It keeps what scanner keeps, and refuses names that
// lead out of the archive, files that come twice, devices, FIFOs and sockets.
type tarTree struct {
	root   *ext4.Inode
	stream *ext4.Stream

	in     *tar.Reader
	names  map[string]*ext4.Inode
	listed map[string]bool // directories with an entry of their own
	full   batch           // being filled
	send   func(batch) error
}

func newTarTree(r io.Reader) *tarTree {
	root := &ext4.Inode{Mode: modeDir | 0o755, Path: ".", Seconds: time.Now().Unix()}
	return &tarTree{
		root: root, stream: ext4.NewStream(), in: tar.NewReader(r),
		names: map[string]*ext4.Inode{".": root}, listed: map[string]bool{},
	}
}

// read reads to the end of the archive and gives full batches to send.
func (t *tarTree) read(send func(batch) error) error {
	t.send = send
	for entries := 0; ; entries++ {
		h, err := t.in.Next()
		if errors.Is(err, io.EOF) {
			if entries == 0 {
				return fmt.Errorf("%w: it is empty", ErrTar)
			}
			return t.flush()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTar, err)
		}
		if err := t.entry(h); err != nil {
			return fmt.Errorf("%w: %.300q: %w", ErrTar, h.Name, err)
		}
	}
}

func (t *tarTree) entry(h *tar.Header) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.dir(name, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		i := newTarInode(name, h, modeRegular)
		if i.Size = h.Size; i.Size > maxFileSize {
			return fmt.Errorf("%d bytes: ext4 holds files of at most 16 TiB", i.Size)
		}
		if err := t.add(name, i); err != nil {
			return err
		}
		return t.contents(i)
	case tar.TypeSymlink:
		i := newTarInode(name, h, modeSymlink)
		i.Target = h.Linkname
		return t.add(name, i)
	case tar.TypeLink:
		to, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		i := t.names[to]
		if i == nil || i.Mode&^0o7777 == modeDir {
			return fmt.Errorf("a hard link to %.300q, which is no file that came before", h.Linkname)
		}
		return t.add(name, i)
	}
	return errors.New("a volume holds only files, directories and symbolic links")
}

// inside gives the path from the top that a tar program would unpack to.
func inside(name string) (string, error) {
	p := path.Clean(name)
	if name == "" || path.IsAbs(p) || p == ".." || strings.HasPrefix(p, "../") || strings.Contains("/"+name+"/", "/../") {
		return "", fmt.Errorf("%.300q leads out of the archive", name)
	}
	return p, nil
}

func newTarInode(name string, h *tar.Header, kind uint16) *ext4.Inode {
	i := &ext4.Inode{Path: name}
	setTarAttributes(i, h, kind)
	return i
}

func setTarAttributes(i *ext4.Inode, h *tar.Header, kind uint16) {
	i.Mode = kind | uint16(h.Mode&0o777)
	i.Seconds, i.Nanos = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if short, ok := strings.CutPrefix(k, tarXattr); ok && kind != modeSymlink {
			i.Xattrs = append(i.Xattrs, ext4.Xattr{Name: short, Value: []byte(h.PAXRecords[k])})
		}
	}
}

// dir makes a directory, or gives one that had to be made already its own
// attributes.
func (t *tarTree) dir(name string, h *tar.Header) error {
	if i := t.names[name]; i != nil && i.Mode&^0o7777 == modeDir && !t.listed[name] {
		t.listed[name] = true
		setTarAttributes(i, h, modeDir)
		return nil
	}
	t.listed[name] = true
	return t.add(name, newTarInode(name, h, modeDir))
}

// add enters a name, with the directories above it.
func (t *tarTree) add(name string, i *ext4.Inode) error {
	if t.names[name] != nil {
		return errors.New("it comes twice")
	}
	above := path.Dir(name)
	d := t.names[above]
	if d == nil {
		d = &ext4.Inode{Mode: modeDir | 0o755, Path: above, Seconds: t.root.Seconds}
		if err := t.add(above, d); err != nil {
			return err
		}
	}
	if d.Mode&^0o7777 != modeDir {
		return fmt.Errorf("%.300q is no directory", above)
	}
	d.Entries = append(d.Entries, ext4.Entry{Name: path.Base(name), Inode: i})
	t.names[name] = i
	return nil
}

// contents takes the blocks of a file; blocks of zeros become holes.
func (t *tarTree) contents(i *ext4.Inode) error {
	t.stream.Begin(i)
	block := make([]byte, ext4.BlockSize)
	for at := int64(0); at < i.Size; at += ext4.BlockSize {
		n := min(ext4.BlockSize, i.Size-at)
		clear(block[n:])
		if _, err := io.ReadFull(t.in, block[:n]); err != nil {
			return err
		}
		if allZero(block) {
			continue
		}
		if err := t.block(block); err != nil {
			return err
		}
		if err := t.stream.Add(i, uint32(at/ext4.BlockSize)); err != nil {
			return err
		}
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// block appends to the batch, which begins where the stream stood.
func (t *tarTree) block(b []byte) error {
	if len(t.full.data) == chunkSize {
		if err := t.flush(); err != nil {
			return err
		}
	}
	if t.full.data == nil {
		t.full = batch{make([]byte, 0, chunkSize), t.stream.Offset()}
	}
	t.full.data = append(t.full.data, b...)
	return nil
}

func (t *tarTree) flush() error {
	if len(t.full.data) == 0 {
		return nil
	}
	b := t.full
	t.full = batch{}
	return t.send(b)
}
