// Package imagecheck decides on an image that lies in a volume which is already
// mounted, before the job sees it.
//
// The work is done in a helper process (package helper) with the rights of the
// job's user and a deadline: the image's tables are parsed where they can do no
// harm, a dead file server hangs nobody, and what the user may not read is not
// his image. It follows no symbolic link and does not leave the volume.
package imagecheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"cloister/image"
	"cloister/noded/helper"

	"golang.org/x/sys/unix"
)

// An Image is where the image lies and how much of it is to be read.
type Image struct {
	Volume *os.File // root directory of the mounted volume
	Path   string   // from there, slash-separated
	Keys   *os.File // public keys that may sign it, see image.ParseKeys
	Whole  bool     // read all of it and check the signatures: image.Verify; else image.Skim
	Max    int64    // with Whole: the largest image, in bytes
}

type request struct {
	Path  string `json:"path"`
	Whole bool   `json:"whole"`
	Max   int64  `json:"max"`
}

type reply struct {
	Refused string `json:"refused"` // "" for an image that may run
}

// A Refusal says why the image may not run. Every other error of Check is about
// the node.
type Refusal string

func (r Refusal) Error() string { return string(r) }

var verb = helper.Register("image-check", handle)

// Check returns nil if the user may run the image. Without a deadline in ctx it
// takes helper.DefaultDeadline at most; helper.ErrDeadline says that this was not
// enough.
func Check(ctx context.Context, u helper.User, i Image) error {
	var r reply
	if _, err := verb.Run(ctx, &u, request{i.Path, i.Whole, i.Max}, []*os.File{i.Volume, i.Keys}, &r); err != nil {
		return err
	}
	if r.Refused != "" {
		return Refusal(r.Refused)
	}
	return nil
}

// What follows runs in the helper process, as the user.

func handle(body []byte, files []*os.File) (any, []*os.File, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, nil, fmt.Errorf("decoding the request: %w", err)
	}
	if len(files) != 2 {
		return nil, nil, errors.New("two files were expected")
	}
	keys, err := image.ReadKeys(files[1])
	if err != nil {
		return nil, nil, err
	}
	if err := r.judge(files[0], keys); err != nil {
		return reply{err.Error()}, nil, nil
	}
	return reply{}, nil, nil
}

func (r request) judge(volume *os.File, keys *image.Keys) error {
	f, size, err := open(volume, r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !r.Whole {
		return image.Skim(f, size, keys)
	}
	if size > r.Max {
		return fmt.Errorf("it has %d bytes, this node's policy allows %d", size, r.Max)
	}
	_, err = image.Verify(f, size, keys)
	return err
}

// Resolve is how a path in a volume is followed: openat2(2).
const Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// open opens a regular file for reading. O_NONBLOCK keeps a FIFO from blocking.
func open(volume *os.File, path string) (*os.File, int64, error) {
	fd, err := unix.Openat2(int(volume.Fd()), path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: Resolve,
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, 0, fmt.Errorf("it is a symbolic link, or lies behind one: %w", err)
	}
	if err != nil {
		return nil, 0, err
	}
	f := os.NewFile(uintptr(fd), path)
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}
