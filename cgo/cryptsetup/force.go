package cryptsetup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ForceClose takes the key out of the kernel whatever holds the device: its
// table is replaced by one that answers every request with an error, and the
// empty device goes away with its last user. Then, if there is one, the error
// wraps ErrBusy.
//
// It speaks to the device-mapper itself: libcryptsetup 2.7.5's
// CRYPT_DEACTIVATE_FORCE was seen to leave a mounted device's table, key
// included, as it was, after half a minute of trying.
func ForceClose(name string) error {
	serial.Lock()
	err := replaceByError(name)
	serial.Unlock()
	if errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("closing %s: %w", name, ErrNotActive)
	}
	if err != nil {
		return fmt.Errorf("closing %s by force: %w", name, err)
	}
	if State(name) == Inactive {
		return nil
	}
	return fmt.Errorf("closing %s: %w: table replaced, removal deferred", name, ErrBusy)
}

// The device-mapper's control interface, linux/dm-ioctl.h.
const (
	dmHeader  = 312 // sizeof(struct dm_ioctl)
	dmTarget  = 40  // sizeof(struct dm_target_spec)
	dmNameMax = 128 // DM_NAME_LEN

	dmDevRemove  = 4
	dmDevSuspend = 6
	dmTableLoad  = 9

	dmReadOnly       = 1 << 0
	dmSkipLockFS     = 1 << 10
	dmNoFlush        = 1 << 11
	dmDeferredRemove = 1 << 17
)

func replaceByError(name string) error {
	sectors, err := size(name)
	if err != nil {
		return err
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	target := make([]byte, dmTarget+8) // followed by empty parameters, aligned
	binary.NativeEndian.PutUint64(target[8:], sectors)
	copy(target[24:], "error")
	if err := command(control, dmTableLoad, name, dmReadOnly, target); err != nil {
		return fmt.Errorf("loading an error table: %w", err)
	}
	// Resuming puts the new table in the old one's place. No flush and no freeze
	// of the file system: what still writes is to lose.
	if err := command(control, dmDevSuspend, name, dmSkipLockFS|dmNoFlush, nil); err != nil {
		return fmt.Errorf("putting the error table in place: %w", err)
	}
	if err := command(control, dmDevRemove, name, dmDeferredRemove, nil); err != nil {
		return fmt.Errorf("removing the device: %w", err)
	}
	return nil
}

func command(control *os.File, number uintptr, name string, flags uint32, target []byte) error {
	if len(name) >= dmNameMax {
		return unix.ENAMETOOLONG
	}
	b := make([]byte, dmHeader+len(target))
	le := binary.NativeEndian
	le.PutUint32(b[0:], 4) // interface version 4.0.0, as every kernel accepts
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], dmHeader)
	if target != nil {
		le.PutUint32(b[20:], 1)
	}
	le.PutUint32(b[28:], flags)
	copy(b[48:], name)
	copy(b[dmHeader:], target)
	const readWrite, magic = 3, 0xfd // _IOWR(DM_IOCTL, number, struct dm_ioctl)
	request := readWrite<<30 | dmHeader<<16 | magic<<8 | number
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
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
