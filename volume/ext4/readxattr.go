package ext4

import (
	"errors"
	"fmt"
)

// Xattrs returns the extended attributes in the namespace user. Those of
// other namespaces (ACLs, security, trusted) are left out.
func (f *File) Xattrs() ([]Xattr, error) {
	var out []Xattr
	extra := 128 + int(le.Uint16(f.raw[0x80:]))
	if body := f.raw[extra:]; len(body) >= 8 && le.Uint32(body) == xattrMagic {
		var err error
		if out, err = xattrEntries(nil, body[4:], 0); err != nil {
			return nil, fmt.Errorf("inode %d: extended attributes: %w", f.Number, err)
		}
	}
	at := int64(le.Uint32(f.raw[0x68:])) | int64(le.Uint16(f.raw[0x76:]))<<32
	if at == 0 {
		return out, nil
	}
	b, err := f.fs.block(at)
	if err != nil {
		return nil, fmt.Errorf("inode %d: extended attributes: %w", f.Number, err)
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, fmt.Errorf("inode %d: extended attribute block has no magic", f.Number)
	}
	if f.fs.csum && le.Uint32(b[16:]) != xattrBlockChecksum(f.fs.seed, at, b) {
		return nil, fmt.Errorf("inode %d: extended attribute block: checksum does not match", f.Number)
	}
	if out, err = xattrEntries(out, b[xattrBlockHeader:], xattrBlockHeader); err != nil {
		return nil, fmt.Errorf("inode %d: extended attributes: %w", f.Number, err)
	}
	return out, nil
}

// xattrEntries parses entries from b's beginning to their end mark. Offsets of
// values count from base bytes before b.
func xattrEntries(out []Xattr, b []byte, base int) ([]Xattr, error) {
	bad := errors.New("entry is out of bounds")
	for at := 0; ; {
		if at+4 > len(b) {
			return nil, bad
		}
		if le.Uint32(b[at:]) == 0 {
			return out, nil
		}
		if at+xattrEntry > len(b) {
			return nil, bad
		}
		e := b[at:]
		nameLen, index, size := int(e[0]), e[1], int(le.Uint32(e[8:]))
		off := int(le.Uint16(e[2:])) - base
		if at += xattrEntry + (nameLen+3)&^3; at > len(b) || le.Uint32(e[4:]) != 0 || size > len(b) {
			return nil, bad
		}
		if index != xattrUser || nameLen == 0 {
			continue
		}
		x := Xattr{Name: string(e[xattrEntry:][:nameLen])}
		if size > 0 {
			if off < 0 || off > len(b)-size {
				return nil, bad
			}
			x.Value = append([]byte(nil), b[off:off+size]...)
		}
		out = append(out, x)
	}
}
