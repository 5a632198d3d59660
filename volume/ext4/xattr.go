package ext4

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	xattrEntry       = 16 // without the name
	xattrBlockHeader = 32
	xattrInodeRoom   = inodeSize - inodeFixed - 4 // after the magic
)

// checkXattrs sorts the attributes as the kernel wants them and checks that
// they fit one block, which is all that ext4 has without ea_inode.
func (i *Inode) checkXattrs() error {
	slices.SortFunc(i.Xattrs, func(a, b Xattr) int {
		return cmp.Or(len(a.Name)-len(b.Name), strings.Compare(a.Name, b.Name))
	})
	for n, x := range i.Xattrs {
		if x.Name == "" || len(x.Name) > maxNameLen || strings.Contains(x.Name, "\x00") || n > 0 && i.Xattrs[n-1].Name == x.Name {
			return fmt.Errorf("laying out ext4: %s: bad extended attribute name", i.Path)
		}
	}
	if n := i.xattrSize(); n > BlockSize-xattrBlockHeader {
		return fmt.Errorf("laying out ext4: %s: %d bytes of extended attributes, ext4 has room for %d", i.Path, n, BlockSize-xattrBlockHeader)
	}
	return nil
}

// xattrSize is the room that entries, their end mark and values take.
func (i *Inode) xattrSize() int {
	if len(i.Xattrs) == 0 {
		return 0
	}
	n := 4
	for _, x := range i.Xattrs {
		n += xattrEntry + (len(x.Name)+3)&^3 + (len(x.Value)+3)&^3
	}
	return n
}

func (i *Inode) xattrsNeedBlock() bool { return i.xattrSize() > xattrInodeRoom }

// putXattrs writes the entries from b's beginning and the values from its
// end. Offsets of values count from base bytes before b.
func (i *Inode) putXattrs(b []byte, base int, hashes bool) (all uint32) {
	at, end := 0, len(b)
	for _, x := range i.Xattrs {
		end -= (len(x.Value) + 3) &^ 3
		copy(b[end:], x.Value)
		e := b[at:]
		e[0], e[1] = byte(len(x.Name)), xattrUser
		if len(x.Value) > 0 {
			le.PutUint16(e[2:], uint16(base+end))
		}
		le.PutUint32(e[8:], uint32(len(x.Value)))
		copy(e[xattrEntry:], x.Name)
		if hashes {
			h := xattrHash(x)
			le.PutUint32(e[12:], h)
			all = all<<16 ^ all>>16 ^ h
		}
		at += xattrEntry + (len(x.Name)+3)&^3
	}
	return all
}

// xattrHash is ext4_xattr_hash_entry of fs/ext4/xattr.c.
func xattrHash(x Xattr) uint32 {
	h := uint32(0)
	for _, c := range []byte(x.Name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	padded := make([]byte, (len(x.Value)+3)&^3)
	copy(padded, x.Value)
	for k := 0; k < len(padded); k += 4 {
		h = h<<16 ^ h>>16 ^ le.Uint32(padded[k:])
	}
	return h
}

func (i *Inode) xattrBlock(fsSeed uint32, b []byte) {
	le.PutUint32(b[0:], xattrMagic)
	le.PutUint32(b[4:], 1) // reference count
	le.PutUint32(b[8:], 1) // blocks
	h := i.putXattrs(b[xattrBlockHeader:], xattrBlockHeader, true)
	le.PutUint32(b[12:], h)
	le.PutUint32(b[16:], xattrBlockChecksum(fsSeed, int64(i.xattr), b))
}
