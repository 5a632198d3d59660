package ext4

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

// small is an image with one of everything, in memory, without checksums, so
// that a changed byte is not found by those.
func small(t testing.TB) []byte {
	t.Helper()
	c := contents{}
	hard := c.file("hard", bytes.Repeat([]byte("h"), 5000), false)
	holes := make([]byte, 40*BlockSize)
	for k := 0; k < 40; k += 2 {
		holes[k*BlockSize] = 1
	}
	hard.Inode.Xattrs = []Xattr{{"a", []byte("v")}, {"long", make([]byte, 300)}}
	root := directory(".", hard, c.file("holes", holes, true),
		directory("d1", directory("d2", Entry{"again", hard.Inode}), c.file("f", []byte("x"), false)),
		Entry{"fast", &Inode{Mode: typeSymlink | 0o777, Target: "target", Path: "fast"}},
		Entry{"slow", &Inode{Mode: typeSymlink | 0o777, Target: strings.Repeat("s", 100), Path: "slow"}},
	).Inode
	im, err := NewImage(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, im.Size())
	if err := im.Fill(b, 0, c.open); err != nil {
		t.Fatal(err)
	}
	ro := b[superOffset+0x64:]
	le.PutUint32(ro, le.Uint32(ro)&^roCompatMetadataCsum)
	return b
}

// find returns where the entry of that name lies.
func find(t testing.TB, b []byte, name string) int {
	t.Helper()
	for at := 0; at < len(b)-8-len(name); at += 4 {
		if int(b[at+6]) == len(name) && string(b[at+8:at+8+len(name)]) == name && le.Uint32(b[at:]) >= firstInode && b[at+7] <= 7 {
			return at
		}
	}
	t.Fatalf("no entry %s", name)
	return 0
}

// inodeAt returns the raw inode of an entry.
func inodeAt(t testing.TB, b []byte, name string) []byte {
	t.Helper()
	n := le.Uint32(b[find(t, b, name):])
	table := int(le.Uint32(b[BlockSize+8:])) * BlockSize
	return b[table+int(n-1)*inodeSize:][:inodeSize]
}

func TestHostileImagesAreRefusedWithTheirReason(t *testing.T) {
	base := small(t)
	if _, err := list(bytes.NewReader(base), int64(len(base))); err != nil {
		t.Fatalf("the image that all cases start from: %v", err)
	}
	super := func(b []byte) []byte { return b[superOffset:] }
	for _, c := range []struct {
		want string
		do   func(b []byte)
	}{
		{"not a file name", func(b []byte) { copy(b[find(t, b, "hard")+8:], "a/bc") }},
		{"not a file name", func(b []byte) { copy(b[find(t, b, "hard")+8:], "a\x00bc") }},
		{"not a file name", func(b []byte) { copy(b[find(t, b, "d2")+8:], "..") }},
		{"directory loop", func(b []byte) { le.PutUint32(b[find(t, b, "d2"):], le.Uint32(b[find(t, b, "d1"):])) }},
		{"out of bounds", func(b []byte) { le.PutUint32(b[find(t, b, "d2"):], rootInode+1) }},
		{"out of bounds", func(b []byte) { le.PutUint32(b[find(t, b, "hard"):], 1<<30) }},
		{"deleted", func(b []byte) { le.PutUint32(b[find(t, b, "hard"):], le.Uint32(super(b))) }},
		{"the directory says type", func(b []byte) { b[find(t, b, "hard")+7] = 2 }},
		{"header is out of bounds", func(b []byte) { le.PutUint16(inodeAt(t, b, "hard")[0x28:], 0) }},
		{"depth", func(b []byte) { le.PutUint16(inodeAt(t, b, "hard")[0x28+6:], 60) }},
		{"header is out of bounds", func(b []byte) { le.PutUint16(inodeAt(t, b, "hard")[0x28+2:], 60) }},
		{"extent is out of bounds", func(b []byte) { le.PutUint32(inodeAt(t, b, "hard")[0x28+12+8:], 1<<31) }},
		{"lies outside", func(b []byte) { le.PutUint32(inodeAt(t, b, "holes")[0x28+12+4:], 1<<31) }},
		{"size is out of bounds", func(b []byte) { le.PutUint32(inodeAt(t, b, "hard")[0x6C:], 1<<31) }},
		{"directory has a hole", func(b []byte) { le.PutUint32(inodeAt(t, b, "d1")[4:], 2*BlockSize) }},
		{"not supported", func(b []byte) { le.PutUint32(inodeAt(t, b, "hard")[0x20:], flagExtents|flagInlineData) }},
		{"ext3", func(b []byte) { le.PutUint32(inodeAt(t, b, "hard")[0x20:], 0) }},
		{"zero byte", func(b []byte) { inodeAt(t, b, "fast")[0x28] = 0 }},
		{"empty or too long", func(b []byte) { le.PutUint32(inodeAt(t, b, "fast")[4:], 5000) }},
		{"without extents", func(b []byte) { le.PutUint32(inodeAt(t, b, "fast")[4:], 61) }},
		{"no magic", func(b []byte) { le.PutUint32(inodeAt(t, b, "hard")[0x68:], 1) }},
		{"lies outside", func(b []byte) { le.PutUint32(inodeAt(t, b, "hard")[0x68:], 1<<31) }},
		{"inline_data", func(b []byte) { super(b)[0x61] |= 0x80 }},
		{"no ext4 file system", func(b []byte) { super(b)[0x38] = 0 }},
		{"do not fit", func(b []byte) { le.PutUint32(super(b)[4:], 1<<30) }},
		{"do not fit", func(b []byte) { le.PutUint32(super(b)[0:], 1<<30) }},
		{"4096-byte blocks", func(b []byte) { super(b)[0x18] = 3 }},
		{"inodes of", func(b []byte) { le.PutUint16(super(b)[0x58:], 128) }},
		{"inode table", func(b []byte) { le.PutUint32(b[BlockSize+8:], 1<<30) }},
	} {
		b := bytes.Clone(base)
		c.do(b)
		if _, err := list(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want it to say %q", err, c.want)
		}
	}
}

// A small volume must not unpack to far more than its size.
func TestFilesThatShareBlocksAreRefused(t *testing.T) {
	c := contents{}
	entries := []Entry{c.file("big", make([]byte, 100*BlockSize), false)}
	for _, n := range []string{"f1", "f2", "f3"} {
		entries = append(entries, c.file(n, []byte("x"), false))
	}
	b, err := os.ReadFile(write(t, directory(".", entries...).Inode, c, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	ro := b[superOffset+0x64:]
	le.PutUint32(ro, le.Uint32(ro)&^roCompatMetadataCsum)
	for _, n := range []string{"f1", "f2", "f3"} {
		copy(inodeAt(t, b, n)[4:0x64], inodeAt(t, b, "big")[4:0x64])
	}
	if _, err := list(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "share blocks") {
		t.Errorf("got %v", err)
	}
}

func TestAChangedByteOfMetadataIsFoundByItsChecksum(t *testing.T) {
	c := contents{}
	holes := make([]byte, 40*BlockSize)
	for k := 0; k < 40; k += 2 {
		holes[k*BlockSize] = 1
	}
	f := c.file("f", holes, true)
	f.Inode.Xattrs = []Xattr{{"long", bytes.Repeat([]byte("v"), 300)}}
	path := write(t, directory(".", f).Inode, c, Options{})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inode := inodeAt(t, b, "f")
	for name, at := range map[string]int{
		"super block":    superOffset + 0x30,
		"descriptor":     BlockSize + 0xC,
		"directory":      find(t, b, "f") + 8,
		"inode":          cap(b) - cap(inode) + 0x10,
		"extent block":   int(le.Uint32(inode[0x28+12+4:]))*BlockSize + 20,
		"xattr block":    int(le.Uint32(inode[0x68:]))*BlockSize + 4000,
		"directory tail": find(t, b, "f")/BlockSize*BlockSize + BlockSize - 1,
	} {
		bad := bytes.Clone(b)
		bad[at] ^= 1
		if _, err := list(bytes.NewReader(bad), int64(len(bad))); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatExt4CannotHoldIsRefused(t *testing.T) {
	c := contents{}
	for want, root := range map[string]*Inode{
		"not a file name":        directory(".", c.file("a/b", nil, false)).Inode,
		"longer than 255":        directory(".", c.file(strings.Repeat("n", 256), nil, false)).Inode,
		"twice":                  directory(".", c.file("a", nil, false), c.file("a", nil, false)).Inode,
		"neither file":           directory(".", Entry{"p", &Inode{Mode: typeFIFO, Path: "p"}}).Inode,
		"must be a directory":    directory(".", c.file(lostAndFound, nil, false)).Inode,
		"of extended attributes": directory(".", Entry{"x", &Inode{Mode: typeRegular, Path: "x", Xattrs: []Xattr{{"a", make([]byte, 4096)}}}}).Inode,
		"symbolic link of":       directory(".", Entry{"s", &Inode{Mode: typeSymlink, Path: "s", Target: strings.Repeat("x", 4096)}}).Inode,
		"beyond ext4's limit":    directory(".", Entry{"b", &Inode{Mode: typeRegular, Path: "b", Size: 1 << 60}}).Inode,
		"no directory":           c.file("f", nil, false).Inode,
	} {
		if _, err := NewImage(root, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

// FuzzList changes bytes of a small image: each 6 bytes of input are an
// offset (4 bytes, little endian) and two new bytes.
func FuzzList(f *testing.F) {
	base := small(f)
	f.Add([]byte{})
	for _, name := range []string{"hard", "d1", "holes", "slow"} {
		at := find(f, base, name)
		f.Add(binary.LittleEndian.AppendUint32(nil, uint32(at)))
		f.Add(append(binary.LittleEndian.AppendUint32(nil, uint32(at+4)), 12, 0))
		inode := inodeAt(f, base, name)
		f.Add(append(binary.LittleEndian.AppendUint32(nil, uint32(cap(base)-cap(inode)+0x28)), 0x0A, 0xF3))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		if len(patch) > 600 {
			return
		}
		b := bytes.Clone(base)
		for ; len(patch) >= 6; patch = patch[6:] {
			at := int(le.Uint32(patch)) % (len(b) - 1)
			copy(b[at:], patch[4:6])
		}
		names, err := listUpTo(bytes.NewReader(b), int64(len(b)), 1<<20)
		if err != nil {
			return
		}
		for n := range names {
			for part := range strings.SplitSeq(n, "/") {
				if validName(part) != nil {
					t.Errorf("name %q", n)
				}
			}
		}
	})
}
