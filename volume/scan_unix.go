//go:build unix

package volume

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"cloister/volume/ext4"

	"golang.org/x/sys/unix"
)

// openNonblock keeps an open from hanging on a FIFO that took a file's place.
const openNonblock = unix.O_NONBLOCK

func identity(info os.FileInfo) (id fileID, several bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}, st.Nlink > 1
}

// holes finds the parts of a sparse file that hold data. A file system
// without SEEK_DATA (EINVAL) gives a file without holes.
func (s *scanner) holes(i *ext4.Inode, info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int64(st.Blocks)*512 >= i.Size {
		return nil
	}
	f, err := s.root.OpenFile(i.Path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const block = ext4.BlockSize
	for at := int64(0); at < i.Size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole follows
		}
		if errors.Is(err, unix.EINVAL) {
			i.Data = nil
			return nil
		}
		if err != nil {
			return fmt.Errorf("finding the holes of %s: %w", i.Path, err)
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("finding the holes of %s: %w", i.Path, err)
		}
		to = min(to, i.Size)
		if to <= from {
			break
		}
		first, end := uint32(from/block), uint32((to+block-1)/block)
		if n := len(i.Data); n > 0 && i.Data[n-1].First+i.Data[n-1].Count >= first {
			i.Data[n-1].Count = max(end, i.Data[n-1].First+i.Data[n-1].Count) - i.Data[n-1].First
		} else {
			i.Data = append(i.Data, ext4.Run{First: first, Count: end - first})
		}
		at = to
	}
	i.Holes = true
	return nil
}
