package unlock

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// loopBlock is the logical block size of the loop devices, in bytes: the
// encryption sector, so that no request is smaller than one.
const loopBlock = 4096

// attachLoop makes a loop device of size bytes from offset of f. The device
// lives until the returned file and every other user of it is closed.
func attachLoop(f *os.File, offset, size int64, readOnly bool) (*os.File, error) {
	if offset < 0 || size <= 0 || offset%loopBlock != 0 || size%loopBlock != 0 {
		return nil, fmt.Errorf("loop device over %d bytes at %d: no whole number of %d-byte blocks", size, offset, loopBlock)
	}
	config := unix.LoopConfig{Fd: uint32(f.Fd()), Size: loopBlock}
	config.Info.Offset = uint64(offset)
	config.Info.Sizelimit = uint64(size)
	// Direct I/O: the mapping above has a page cache of plaintext; a second one
	// of ciphertext below would only cost memory, and writes reach the server
	// when they are said to. The kernel falls back to buffered I/O by itself
	// where the file system cannot.
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	mode := os.O_RDWR
	if readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
		mode = os.O_RDONLY
	}
	loop, err := freeLoop(&config, mode)
	if err != nil {
		return nil, err
	}
	got, err := deviceSize(loop)
	if err == nil && got != size {
		err = fmt.Errorf("the file is shorter than the manifest says: %d of %d bytes at offset %d", got, size, offset)
	}
	if err != nil {
		loop.Close()
		return nil, err
	}
	return loop, nil
}

// freeLoop configures the first loop device that nobody else takes meanwhile.
func freeLoop(config *unix.LoopConfig, mode int) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("making a loop device: %w", err)
	}
	defer control.Close()
	for range 64 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("finding a free loop device: %w", err)
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), mode, 0)
		if err != nil {
			return nil, fmt.Errorf("making a loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if errors.Is(err, unix.EINVAL) && config.Info.Flags&unix.LO_FLAGS_DIRECT_IO != 0 {
			config.Info.Flags &^= unix.LO_FLAGS_DIRECT_IO // newer kernels refuse rather than fall back
			continue
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configuring %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("making a loop device: every free one was taken by somebody else")
}

// deviceSize is a block device's length in bytes.
func deviceSize(dev *os.File) (int64, error) {
	n, err := dev.Seek(0, 2)
	if err != nil {
		return 0, fmt.Errorf("measuring %s: %w", dev.Name(), err)
	}
	return n, nil
}
