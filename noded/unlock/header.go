package unlock

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloister/noded/helper"
	"cloister/secret"
	"cloister/volume"
)

var verbHeader = helper.Register("unlock-header", handleHeader)

// headerRequest is what the helper gets besides the file and a pipe with keys.
type headerRequest struct {
	Pinned        volume.Pinned `json:"pinned"`
	Label         string        `json:"label"`
	KeySize       int           `json:"key_size"`         // bytes, first in the pipe
	KeyslotKeyLen int           `json:"keyslot_key_size"` // bytes, after it
}

// WriteHeader writes the header of a volume that is made here: the owner's
// cryptsetup wants it, and nobody on the node ever reads one, so that only the
// script waits for it, and not the opening of the volume. WriteHeader returns
// when it has taken copies of v's keys and of v.File; what became of it is sent
// to the channel, which is then closed.
func WriteHeader(ctx context.Context, v Volume) (<-chan error, error) {
	keys, err := keyPipe(v.Key, v.KeyslotKey)
	if err != nil {
		return nil, fmt.Errorf("writing the header of volume %d: %w", v.Index, err)
	}
	fd, err := unix.FcntlInt(v.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		keys.Close()
		return nil, fmt.Errorf("writing the header of volume %d: %w", v.Index, err)
	}
	file := os.NewFile(uintptr(fd), v.File.Name())
	request := headerRequest{Pinned: v.Pinned, Label: v.Label, KeySize: v.Key.Len(), KeyslotKeyLen: v.KeyslotKey.Len()}
	done := make(chan error, 1)
	go func() {
		defer file.Close()
		defer keys.Close()
		ctx, cancel := withDeadline(ctx, openDeadline)
		defer cancel()
		_, err := verbHeader.Run(ctx, nil, request, []*os.File{file, keys}, nil)
		if err != nil {
			err = fmt.Errorf("writing the header of volume %d: %w", v.Index, err)
		}
		done <- err
		close(done)
	}()
	return done, nil
}

// What follows runs in the helper process.

func handleHeader(body []byte, files []*os.File) (any, []*os.File, error) {
	var r headerRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, nil, fmt.Errorf("decoding the request: %w", err)
	}
	if len(files) != 2 {
		return nil, nil, errors.New("two files were expected")
	}
	key, keyslotKey := secret.Alloc(r.KeySize), secret.Alloc(r.KeyslotKeyLen)
	if err := readKeys(files[1], key, keyslotKey); err != nil {
		return nil, nil, err
	}
	defer key.Wipe()
	defer keyslotKey.Wipe()
	header, err := volume.HeaderForNewVolume(rand.Reader, r.Pinned, r.Label, volume.Keys{VolumeKey: key, KeyslotKey: keyslotKey})
	if err != nil {
		return nil, nil, err
	}
	return nil, nil, store(files[0], header)
}

// store writes to the start of a file, around the page cache if that can be:
// the kernel makes direct writes to the same file, as the loop device's are,
// wait until cached ones are stored.
func store(f *os.File, b []byte) error {
	const align = 4096 // as every file system takes it (open(2), O_DIRECT)
	room := make([]byte, len(b)+2*align)
	skip := align - int(uintptr(unsafe.Pointer(&room[0]))%align)
	whole := room[skip : skip+(len(b)+align-1)/align*align]
	copy(whole, b)
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags|unix.O_DIRECT)
	}
	if err == nil {
		var n int
		if n, err = unix.Pwrite(int(f.Fd()), whole, 0); err == nil && n < len(whole) {
			err = io.ErrShortWrite
		}
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	}
	if err != nil {
		_, err = f.WriteAt(whole, 0)
	}
	return errors.Join(err, f.Sync())
}

// readKeys fills keys from the pipe in which keyPipe put them.
func readKeys(pipe *os.File, keys ...secret.Bytes) error {
	for _, k := range keys {
		if _, err := io.ReadFull(pipe, k.Reveal()); err != nil {
			return fmt.Errorf("reading keys: %w", err)
		}
	}
	return nil
}
