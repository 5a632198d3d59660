package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/volume/ext4"

	"golang.org/x/sys/unix"
)

const (
	xattrPrefix  = "user."
	xattrMaxList = 64 << 10 // XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux
)

// xattrs reads the attributes in the namespace user.
func (s *scanner) xattrs(i *ext4.Inode) error {
	if i.Mode&^0o7777 == modeSymlink {
		return nil // Linux has none in this namespace
	}
	full := filepath.Join(s.top, filepath.FromSlash(i.Path))
	size, err := unix.Llistxattr(full, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil
	}
	list := make([]byte, xattrMaxList)
	if err == nil {
		size, err = unix.Llistxattr(full, list)
	}
	if err != nil {
		return fmt.Errorf("listing the extended attributes of %s: %w", i.Path, err)
	}
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		short, ok := strings.CutPrefix(name, xattrPrefix)
		if !ok || short == "" {
			continue
		}
		value := make([]byte, xattrMaxList)
		n, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			return fmt.Errorf("reading the extended attribute %q of %s: %w", name, i.Path, err)
		}
		i.Xattrs = append(i.Xattrs, ext4.Xattr{Name: short, Value: append([]byte(nil), value[:n]...)})
	}
	return nil
}

// setXattrs restores attributes. A target file system without them is no
// error: the contents matter more.
func setXattrs(f *os.File, xs []ext4.Xattr) error {
	for _, x := range xs {
		err := unix.Fsetxattr(int(f.Fd()), xattrPrefix+x.Name, x.Value, 0)
		if errors.Is(err, unix.ENOTSUP) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("setting the extended attribute %q: %w", x.Name, err)
		}
	}
	return nil
}
