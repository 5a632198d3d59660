package devicemapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForceClose takes the key out of the kernel whatever holds the device: its
// table is replaced by one that answers every request with an error, or dropped
// if it was not in use yet, and the empty device goes away with its last user.
// Then, if there is one, the error wraps ErrBusy.
func ForceClose(name string) error {
	err := takeTable(name)
	if errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("closing %s: %w", name, ErrNotActive)
	}
	if err != nil {
		return fmt.Errorf("closing %s by force: %w", name, err)
	}
	state, err := State(name)
	if err == nil && state != Inactive {
		err = fmt.Errorf("closing %s: %w: table taken, removal deferred", name, ErrBusy)
	}
	return err
}

func takeTable(name string) error {
	state, err := State(name)
	if err != nil {
		return err
	}
	if state == Unfinished {
		if _, err := command(dmTableClear, name, 0, nil); err != nil {
			return fmt.Errorf("dropping the table: %w", err)
		}
	} else if err := replaceByError(name); err != nil {
		return err
	}
	if _, err := command(dmDevRemove, name, dmDeferredRemove, nil); err != nil {
		return fmt.Errorf("removing the device: %w", err)
	}
	return nil
}

func replaceByError(name string) error {
	sectors, err := size(name)
	if err != nil {
		return err
	}
	target := make([]byte, dmTarget+8) // followed by empty parameters, aligned
	binary.NativeEndian.PutUint64(target[8:], sectors)
	copy(target[24:], "error")
	if _, err := command(dmTableLoad, name, dmReadOnly, target); err != nil {
		return fmt.Errorf("loading an error table: %w", err)
	}
	// Resuming puts the new table in the old one's place. No flush and no freeze
	// of the file system: what still writes is to lose.
	if _, err := command(dmDevSuspend, name, dmSkipLockFS|dmNoFlush, nil); err != nil {
		return fmt.Errorf("putting the error table in place: %w", err)
	}
	return nil
}

// size is a mapping's length in 512-byte units. unix.ENXIO: there is none.
func size(name string) (uint64, error) {
	paths, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return 0, err
	}
	for _, path := range paths {
		if b, err := os.ReadFile(path); err != nil || string(bytes.TrimSuffix(b, []byte("\n"))) != name {
			continue
		}
		b, err := os.ReadFile(strings.TrimSuffix(path, "dm/name") + "size")
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	}
	return 0, unix.ENXIO
}
