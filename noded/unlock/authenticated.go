package unlock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/devicemapper"
	"cloister/volume"
	"cloister/volume/integrity"
)

// openAuthenticated maps an authenticated volume over the device of its area:
// dm-integrity, which stores the tags, below dm-crypt, which checks them.
//
// The kernel reads dm-integrity's superblock and journal, and makes both for a
// new volume. Later the superblock is written first as the pinned size makes it,
// so that it does not matter what the file held. The journal of a volume that
// nobody closed must stay: the kernel puts to its place what is in it. It is
// checked before, so that this is nothing but what was written under the volume's
// key.
func (o *opening) openAuthenticated(area *os.File, p parameters) (string, error) {
	l, err := integrity.NewLayout(p.size)
	if err != nil {
		return "", err
	}
	if !o.Create {
		if err := o.checkJournal(area, l); err != nil {
			return "", err
		}
		if err := writeWhole(area, l.Superblock(), 0); err != nil {
			return "", fmt.Errorf("preparing the volume's tags: %w", err)
		}
	}
	n := name(o.Session, o.Index, tags)
	device, err := devicemapper.OpenIntegrity(devicemapper.Integrity{
		Name: n, Device: area.Name(), Size: uint64(p.size) / unit,
		TagSize: integrity.TagSize, SectorSize: integrity.SectorSize,
		JournalSectors: int(l.JournalSize() / unit), InterleaveSectors: integrity.InterleaveSectors,
	})
	if err != nil {
		return "", err
	}
	o.names = append(o.names, n)
	n = name(o.Session, o.Index, authenc)
	device, err = devicemapper.OpenAuthenticated(devicemapper.Authenticated{
		Name: n, Device: device, Size: uint64(p.size) / unit, Key: o.key,
		SectorSize: integrity.SectorSize, TagSize: integrity.TagSize,
	})
	if err != nil {
		return "", err
	}
	o.names = append(o.names, n)
	return device, nil
}

func (o *opening) checkJournal(area *os.File, l integrity.Layout) error {
	r, err := integrity.NewReader(area, l, o.key)
	if err != nil {
		return err
	}
	r.Wipe()
	return nil
}

// enter counts the opening in an authenticated volume's state, after it has
// refused a state that is older than the owner knows.
func (o *opening) enter(device string, p parameters) error {
	if !p.authenticated {
		return nil
	}
	var was volume.State
	if !o.Create {
		var err error
		if was, err = readState(device, p.size); err != nil {
			return fmt.Errorf("reading the volume's state: %w", err)
		}
		if err := was.After(o.Known); err != nil && !mutant.Removed(mutant.Counter) {
			return err
		}
	}
	if err := writeState(device, p.size, was.Opened(o.Job)); err != nil {
		return fmt.Errorf("counting in the volume's state: %w", err)
	}
	return nil
}

// leave counts the closing of the mapping n, if it is an authenticated volume's,
// which nobody uses any more. One whose opening was not counted stays as it is.
func leave(n string) error {
	if d, _ := parseName(n); d.kind != authenc {
		return nil
	}
	device, err := devicemapper.Path(n)
	if err != nil {
		return err
	}
	size, err := sizeOf(device)
	if err != nil {
		return err
	}
	s, err := readState(device, size)
	if err == nil && s.Unclosed() {
		err = writeState(device, size, s.Closed())
	}
	if err != nil {
		return fmt.Errorf("counting the closing of %s: %w", n, err)
	}
	return nil
}

func readState(device string, size int64) (volume.State, error) {
	f, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return volume.State{}, err
	}
	defer f.Close()
	b := make([]byte, volume.StateSize)
	if _, err := f.ReadAt(b, size-volume.StateSize); err != nil {
		return volume.State{}, altered(err)
	}
	return volume.ParseState(b)
}

// writeState writes one whole page, for which the kernel reads nothing first,
// and returns once the file server has it.
func writeState(device string, size int64, s volume.State) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(writeWhole(f, b, size-volume.StateSize), f.Close())
}

func writeWhole(f *os.File, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Sync()
}

func sizeOf(device string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return deviceSize(f)
}

// altered says what the kernel's error means for a volume.
func altered(err error) error {
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EILSEQ) {
		return fmt.Errorf("%w: the file was altered, or is not the one that the manifest pins", err)
	}
	return err
}
