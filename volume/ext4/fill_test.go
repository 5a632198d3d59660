package ext4

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Buffers are used again, and hold another part of the contents then.
func TestFillLeavesNothingOfWhatTheBufferHeld(t *testing.T) {
	c := contents{}
	root := directory(".",
		c.file("tail", bytes.Repeat([]byte{1}, 3*BlockSize+5), false),
		c.file("sparse", append(make([]byte, 5*BlockSize), bytes.Repeat([]byte{2}, 2*BlockSize+1)...), true),
		c.file("empty", nil, false),
		Entry{"link", &Inode{Mode: typeSymlink | 0o777, Target: strings.Repeat("x", 200), Path: "link"}},
	).Inode
	attributes := c.file("attributes", []byte("z"), false)
	attributes.Inode.Xattrs = []Xattr{{"large", bytes.Repeat([]byte{3}, 1000)}}
	root.Entries = append(root.Entries, attributes)
	var many []Entry
	for k := range 300 {
		many = append(many, c.file(fmt.Sprintf("a-name-of-some-length-%03d", k), nil, false))
	}
	holes := &Inode{Mode: typeRegular | 0o600, Size: 2000 * BlockSize, Holes: true, Path: "fragments"}
	for k := uint32(0); k < 2000; k += 2 { // more extents than an inode has room for
		holes.Data = append(holes.Data, Run{k, 1})
	}
	c[holes] = make([]byte, holes.Size)
	root.Entries = append(root.Entries, directory("many", many...), Entry{"fragments", holes})
	im, err := NewImage(root, Options{Free: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const chunk = 37
	for at := int64(0); at < im.Size()/BlockSize; at += chunk {
		clean, dirty := make([]byte, chunk*BlockSize), bytes.Repeat([]byte{0xAA}, chunk*BlockSize)
		if err := im.Fill(clean, at, c.open); err != nil {
			t.Fatal(err)
		}
		if err := im.Fill(dirty, at, c.open); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(clean, dirty) {
			t.Errorf("blocks from %d on depend on what the buffer held", at)
		}
	}
}
