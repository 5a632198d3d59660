package sealed

import (
	"errors"
	"fmt"

	"cloister/volume"
)

// checkPinned holds the pinned parameters against what the job does with the
// volume: only a hash tree makes a changed read-only volume an error, a volume
// with one cannot be written, and a volume that the node makes has the size
// that was asked for.
func (v *Volume) checkPinned() error {
	switch {
	case v.Mode == ReadOnly && v.Pinned.Verity == nil:
		return errors.New("it has no hash tree, so it cannot be opened read-only: make it anew with cloister volume create")
	case v.Mode == ReadWrite && v.Pinned.Verity != nil:
		return errors.New("it was made for reading and cannot be opened rw")
	case v.Create && v.Pinned.PayloadSize != v.Size:
		return errors.New("its pinned length is not its size")
	case v.Create && v.Pinned.Integrity != nil && v.Size > MaxAuthenticated:
		return fmt.Errorf("an authenticated volume is at most %d TiB: make it smaller, or say integrity=none", MaxAuthenticated>>40)
	case v.State != volume.State{} && (v.Create || v.Pinned.Integrity == nil):
		return errors.New("a state is given of a volume that has none")
	case v.State != volume.State{}:
		return v.State.Validate()
	}
	return nil
}

// MaxAuthenticated is the largest file system, in bytes, that the node makes in
// an authenticated volume, and the sector for its state: 2^32 blocks of 4096.
const MaxAuthenticated = 1 << 44
