package unlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/helper"
	"cloister/volume"
)

// ErrInUse is wrapped by Open's error when another node or program has the
// volume open.
var ErrInUse = unix.EAGAIN

// An inUseError says only what people need to know.
type inUseError string

func (e inUseError) Error() string { return string(e) }
func (inUseError) Unwrap() error   { return ErrInUse }

// note leaves the holder's name on a volume that was just locked. The note is
// for people: a file system that has no room for one is no error.
func (o *opening) note() {
	if o.Holder.Node == "" {
		return
	}
	_ = asUser(o.UID, o.GID, func() error { return o.Holder.Note(o.file) })
}

// inUse names the holder of a locked volume if there is a note of it.
func (o *opening) inUse() error {
	held := "another program has the volume open"
	_ = asUser(o.UID, o.GID, func() error {
		if h, ok := volume.HolderOf(o.file); ok {
			held += fmt.Sprintf(" (by the note on the file, %v)", h)
		}
		return nil
	})
	return inUseError(held)
}

// asUser does one system call or two with the user's rights to files: root has
// none on many file servers, and should use none. The calling goroutine is
// locked to its thread, as a helper's is, and the user owns the file, so that
// groups do not matter.
func asUser(uid, gid uint32, do func() error) error {
	unix.SetfsgidRetGid(int(gid))
	unix.SetfsuidRetUid(int(uid)) // takes the capabilities to pass by file permissions, too
	defer unix.SetfsgidRetGid(0)
	defer unix.SetfsuidRetUid(0)
	if got, _ := unix.SetfsuidRetUid(-1); got != int(uid) {
		return fmt.Errorf("acting as uid %d: acting as %d", uid, got)
	}
	return do()
}

// A Held volume is one that this node has open for writing. It has the file
// open, and with it the lock.
type Held struct {
	file   *os.File
	holder volume.Holder
	user   helper.User
}

// Hold keeps f, which Open opened for writing with the note h, until Release.
func Hold(f *os.File, h volume.Holder, u helper.User) (*Held, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keeping the volume's file open: %w", err)
	}
	return &Held{os.NewFile(uintptr(fd), f.Name()), h, u}, nil
}

// releaseDeadline is for a file server that does not answer: a note left behind
// does no harm.
const releaseDeadline = 10 * time.Second

var verbRelease = helper.Register("unlock-release", handleRelease)

// Release takes the note back, once the volume was closed, and gives up the
// lock. An error says that the note may still be there.
func (h *Held) Release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, releaseDeadline)
	defer cancel()
	_, err := verbRelease.Run(ctx, &h.user, h.holder, []*os.File{h.file}, nil)
	// A dead file server can hang the closing.
	go h.file.Close()
	return err
}

func handleRelease(body []byte, files []*os.File) (any, []*os.File, error) {
	var h volume.Holder
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, nil, fmt.Errorf("decoding the request: %w", err)
	}
	if len(files) != 1 {
		return nil, nil, errors.New("one file was expected")
	}
	return nil, nil, h.Forget(files[0])
}
