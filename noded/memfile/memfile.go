// Package memfile passes bytes between processes in a file that lies in memory
// alone and whose bytes, once it was handed over, nobody can change (memfd_create(2)).
//
// The kernel frees the memory with the file's last descriptor. It refuses to
// read a file that could still be changed, or that is larger than its reader
// expects.
package memfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// seals are those of a file whose bytes cannot change any more.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// New returns a sealed file that holds b. The name shows in /proc/PID/fd.
func New(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(b); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	return f, nil
}

// Read returns what a sealed file of at most limit bytes holds.
func Read(f *os.File, limit int64) ([]byte, error) {
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("not a file in memory: %w", err)
	}
	if got&seals != seals {
		return nil, errors.New("the file is not sealed")
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are read", info.Size(), limit)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return b, nil
}
