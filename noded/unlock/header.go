package unlock

import (
	"crypto/rand"
	"fmt"

	"cloister/volume"
)

// writeHeader makes the owner's header: the node writes one and never reads
// one.
func (o *opening) writeHeader() error {
	header, err := volume.HeaderForNewVolume(rand.Reader, o.Pinned, o.Label, volume.Keys{VolumeKey: o.key, KeyslotKey: o.keyslotKey})
	if err != nil {
		return err
	}
	if _, err := o.file.WriteAt(header, 0); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	if err := o.file.Sync(); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	return nil
}
