package devicemapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// dmTableStatus is DM_TABLE_STATUS_CMD of linux/dm-ioctl.h.
const dmTableStatus = 12

// Corrupted reports whether the verity device name met a block that is not what
// its root hash says: its status line is then "C" instead of "V" (the kernel's
// Documentation/admin-guide/device-mapper/verity.rst). A device that is gone
// has met none.
func Corrupted(name string) (bool, error) {
	reply, err := command(dmTableStatus, name, 0, make([]byte, 4<<10))
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("status of %s: %w", name, err)
	}
	return corrupted(reply)
}

func corrupted(m message) (bool, error) {
	kind, line, err := m.status()
	return kind == "verity" && strings.HasPrefix(line, "C"), err
}

// status reads the one target of the answer: struct dm_target_spec, with the
// target's type at 24, then the status line up to a NUL.
func (m message) status() (kind, line string, err error) {
	malformed := errors.New("status of a device: malformed answer")
	if len(m) < dmHeader+dmTarget {
		return "", "", malformed
	}
	at := int(binary.NativeEndian.Uint32(m[16:])) // data_start
	if at < dmHeader || at+dmTarget > len(m) {
		return "", "", malformed
	}
	k, _, _ := bytes.Cut(m[at+24:at+40], []byte{0})
	l, _, ended := bytes.Cut(m[at+dmTarget:], []byte{0})
	if !ended {
		return "", "", malformed
	}
	return string(k), string(l), nil
}
