package volume

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps programs apart by accident, not by force: it is the lock that a
// node takes on a volume for writing, and holds over NFS, too. A file system
// without locks is no error.
func lock(f *os.File, exclusive bool) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	if exclusive {
		l.Type = unix.F_WRLCK
	}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return inUse(f)
	}
	if err == nil {
		forgetStale(f)
	}
	return nil
}
