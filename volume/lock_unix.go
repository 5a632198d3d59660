//go:build unix && !linux

package volume

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps programs apart by accident, not by force. A file system without
// locks is no error.
func lock(f *os.File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	return nil
}
