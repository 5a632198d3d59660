package sealed

import "errors"

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
	}
	return nil
}
