package volume

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Note leaves h on the file of a volume that the caller has locked for writing.
// A file system without extended attributes is an error that can be ignored.
func (h Holder) Note(f *os.File) error {
	note := h.encode()
	if _, ok := parseHolder([]byte(note)); !ok {
		return fmt.Errorf("noting who holds the volume: %q is no note", note)
	}
	if err := unix.Fsetxattr(int(f.Fd()), holderName, []byte(note), 0); err != nil {
		return fmt.Errorf("noting who holds the volume: %w", err)
	}
	return nil
}

// Forget takes h's note off the file again, if it is h's. The caller still has
// the lock, or the next holder's could be taken.
func (h Holder) Forget(f *os.File) error {
	if found, ok := HolderOf(f); !ok || found.encode() != h.encode() {
		return nil
	}
	if err := unix.Fremovexattr(int(f.Fd()), holderName); err != nil {
		return fmt.Errorf("taking back who holds the volume: %w", err)
	}
	return nil
}

// HolderOf reads the note on a file that the caller found locked.
func HolderOf(f *os.File) (Holder, bool) {
	note := make([]byte, maxHolder)
	n, err := unix.Fgetxattr(int(f.Fd()), holderName, note) // ERANGE for a longer one
	if err != nil {
		return Holder{}, false
	}
	return parseHolder(note[:n])
}

// inUse is ErrInUse with the name of the holder, if one is noted.
func inUse(f *os.File) error {
	if h, ok := HolderOf(f); ok {
		return fmt.Errorf("%w (by the note on the file, %v)", ErrInUse, h)
	}
	return ErrInUse
}

// forgetStale takes a note away that a crash left: the caller has the lock.
func forgetStale(f *os.File) {
	if _, err := unix.Fgetxattr(int(f.Fd()), holderName, nil); err == nil {
		_ = unix.Fremovexattr(int(f.Fd()), holderName) // who may not write the file leaves it
	}
}
