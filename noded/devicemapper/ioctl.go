package devicemapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloister/secret"
)

// The device-mapper's control interface, linux/dm-ioctl.h.
const (
	dmHeader  = 312 // sizeof(struct dm_ioctl)
	dmTarget  = 40  // sizeof(struct dm_target_spec)
	dmName    = 12  // offsetof(struct dm_name_list, name)
	dmNameMax = 128 // DM_NAME_LEN
	dmUUIDMax = 129 // DM_UUID_LEN

	dmListDevices = 2
	dmDevCreate   = 3
	dmDevRemove   = 4
	dmDevSuspend  = 6
	dmDevStatus   = 7
	dmTableLoad   = 9
	dmTableClear  = 10 // of the table that is not in use yet

	dmReadOnly       = 1 << 0
	dmStatusTable    = 1 << 4 // the table, not how it fares
	dmActivePresent  = 1 << 5
	dmBufferFull     = 1 << 8
	dmSkipLockFS     = 1 << 10
	dmNoFlush        = 1 << 11
	dmInactiveTable  = 1 << 12 // the one that is not in use yet
	dmSecureData     = 1 << 15 // the kernel wipes its copy of the message
	dmDeferredRemove = 1 << 17
)

// maxNames bounds what Names reads: some 20,000 devices.
const maxNames = 1 << 20 // bytes

// Names lists the node's mappings, those without a table too: sysfs shows a
// mapping only from its first table on.
func Names() ([]string, error) {
	for room := 1 << 14; room <= maxNames; room *= 2 {
		reply, err := command(dmListDevices, "", 0, make([]byte, room))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil, nil // a kernel without the device-mapper has no mappings
		}
		if err != nil {
			return nil, fmt.Errorf("listing device-mapper names: %w", err)
		}
		if reply.flags()&dmBufferFull == 0 {
			return reply.names()
		}
	}
	return nil, fmt.Errorf("listing device-mapper names: more than %d bytes of them", maxNames)
}

// State says whether name is mapped and used.
func State(name string) (Status, error) {
	reply, err := command(dmDevStatus, name, 0, nil)
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return Inactive, nil
	case err != nil:
		return Inactive, fmt.Errorf("state of mapping %s: %w", name, err)
	case reply.flags()&dmActivePresent == 0:
		return Unfinished, nil
	case reply.openCount() > 0:
		return Busy, nil
	}
	return Active, nil
}

// Path is the device of a mapping.
func Path(name string) (string, error) {
	reply, err := command(dmDevStatus, name, 0, nil)
	if errors.Is(err, unix.ENXIO) {
		err = ErrNotActive
	}
	if err != nil {
		return "", fmt.Errorf("device of mapping %s: %w", name, err)
	}
	return reply.path(), nil
}

// Close removes the mapping, finished or not. The error wraps ErrBusy or
// ErrNotActive where that is the cause.
func Close(name string) error { return remove(name) }

// remove takes away name, with the table that it has or was to have.
func remove(name string) error {
	_, err := command(dmDevRemove, name, 0, nil)
	switch {
	case errors.Is(err, unix.ENXIO):
		err = ErrNotActive
	case errors.Is(err, unix.EBUSY):
		err = ErrBusy
	}
	if err != nil {
		return fmt.Errorf("closing %s: %w", name, err)
	}
	return nil
}

// A message is a struct dm_ioctl and what follows it, as sent or as answered.
type message []byte

func (m message) openCount() uint32 { return binary.NativeEndian.Uint32(m[24:]) }
func (m message) flags() uint32     { return binary.NativeEndian.Uint32(m[28:]) }

// path is the device's node, which the kernel makes (devtmpfs).
func (m message) path() string {
	return "/dev/dm-" + strconv.FormatUint(uint64(unix.Minor(binary.NativeEndian.Uint64(m[40:]))), 10)
}

// names decodes a chain of struct dm_name_list: device number, distance to the
// next, name.
func (m message) names() ([]string, error) {
	malformed := errors.New("listing device-mapper names: malformed answer")
	var names []string
	for at := int(binary.NativeEndian.Uint32(m[16:])); ; {
		if at < dmHeader || at+dmName > len(m) {
			return nil, malformed
		}
		device, next := binary.NativeEndian.Uint64(m[at:]), int(binary.NativeEndian.Uint32(m[at+8:]))
		if device == 0 {
			return names, nil // an empty list
		}
		name, _, ended := bytes.Cut(m[at+dmName:], []byte{0})
		if !ended {
			return nil, malformed
		}
		names = append(names, string(name))
		if next == 0 {
			return names, nil
		}
		at += next
	}
}

// command sends a command of the control interface, about name unless that is
// empty, with data after the header.
func command(number uintptr, name string, flags uint32, data []byte) (message, error) {
	return ask(request{number: number, name: name, flags: flags, data: data})
}

// A request is one command of the control interface and what goes with it.
type request struct {
	number     uintptr
	name, uuid string
	flags      uint32
	data       []byte // after the header
}

// ask returns the kernel's answer. That to a request with dmSecureData is wiped,
// with the copy of its data.
func ask(r request) (message, error) {
	if len(r.name) >= dmNameMax || len(r.uuid) >= dmUUIDMax {
		return nil, unix.ENAMETOOLONG
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	m := make(message, dmHeader+len(r.data))
	if r.flags&dmSecureData != 0 {
		whole := secret.Alloc(len(m))
		defer whole.Wipe()
		m = whole.Reveal()
	}
	le := binary.NativeEndian
	le.PutUint32(m[0:], 4) // interface version 4.0.0, as every kernel accepts
	le.PutUint32(m[12:], uint32(len(m)))
	le.PutUint32(m[16:], dmHeader)
	if r.number == dmTableLoad {
		le.PutUint32(m[20:], 1) // target
	}
	le.PutUint32(m[28:], r.flags)
	if r.number == dmDevSuspend {
		le.PutUint32(m[32:], private()) // udev gets it as DM_COOKIE
	}
	copy(m[48:], r.name)
	copy(m[48+dmNameMax:], r.uuid)
	copy(m[dmHeader:], r.data)
	const readWrite, magic = 3, 0xfd // _IOWR(DM_IOCTL, number, struct dm_ioctl)
	command := readWrite<<30 | dmHeader<<16 | magic<<8 | r.number
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), command, uintptr(unsafe.Pointer(&m[0])))
	if errno != 0 {
		return nil, errno
	}
	return m, nil
}
