package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"cloister/secret"
	"cloister/volume/integrity"
	"cloister/volume/luks2"
)

// Unlock opens a keyslot of the volume with a key or passphrase. It returns the
// volume key, the keyslot's number and the parameters that the header claims:
// nothing vouches for these but that the key belongs to the header. It is for
// the owner who has lost what was pinned, or who changes a keyslot.
//
// Deriving the key takes seconds and memory, up to the limits of package luks2;
// it is left behind, still running, when ctx ends.
func Unlock(ctx context.Context, path string, key secret.Bytes) (Pinned, secret.Bytes, int, error) {
	type result struct {
		pinned Pinned
		key    secret.Bytes
		slot   int
		err    error
	}
	done := make(chan result, 1)
	go func() {
		p, k, n, err := unlock(path, key)
		done <- result{p, k, n, err}
	}()
	select {
	case <-ctx.Done():
		return Pinned{}, secret.Bytes{}, 0, context.Cause(ctx)
	case r := <-done:
		return r.pinned, r.key, r.slot, r.err
	}
}

func unlock(path string, key secret.Bytes) (Pinned, secret.Bytes, int, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return Pinned{}, secret.Bytes{}, 0, fmt.Errorf("opening the volume: %w", err)
	}
	defer f.Close()
	h, err := luks2.Read(f, size)
	if err != nil {
		return Pinned{}, secret.Bytes{}, 0, fmt.Errorf("%s: %w", path, err)
	}
	vk, slot, err := h.UnlockedBy(f, key)
	if err != nil {
		return Pinned{}, secret.Bytes{}, 0, fmt.Errorf("%s: %w", path, err)
	}
	p := Pinned{Cipher: h.Cipher, SectorSize: int64(h.SectorSize), PayloadOffset: h.PayloadOffset, PayloadSize: h.PayloadSize, UUID: h.UUID}
	if h.Authenticated {
		l, err := integrity.OfArea(h.PayloadSize)
		if err != nil {
			vk.Wipe()
			return Pinned{}, secret.Bytes{}, 0, fmt.Errorf("%s: %w", path, err)
		}
		tags := authenticated(l)
		p.PayloadSize, p.Integrity = l.Size(), &tags
	}
	return p, vk, slot, nil
}

// AddKeyslot makes a keyslot that key opens and returns its number.
func AddKeyslot(rand io.Reader, path string, volumeKey, key secret.Bytes, k luks2.KDF) (id int, err error) {
	err = change(path, func(f *os.File, size int64) error {
		id, err = luks2.AddKeyslot(rand, f, size, volumeKey, key, k)
		return err
	})
	return id, err
}

// ChangeKeyslot makes keyslot id open with key and no more with what opened it
// before.
func ChangeKeyslot(rand io.Reader, path string, id int, volumeKey, key secret.Bytes, k luks2.KDF) error {
	return change(path, func(f *os.File, size int64) error {
		return luks2.ChangeKeyslot(rand, f, size, id, volumeKey, key, k)
	})
}

// RemoveKeyslot takes keyslot id away, unless it is the last one.
func RemoveKeyslot(rand io.Reader, path string, id int) error {
	return change(path, func(f *os.File, size int64) error { return luks2.RemoveKeyslot(rand, f, size, id) })
}

// RepairHeader makes a damaged copy of the header whole from the other one. If
// neither can be read, or they are another volume's, it writes a new header
// from the pinned parameters and the keys: other keyslots are then lost. It
// reports what it did, or "" if nothing was to be done.
func RepairHeader(rand io.Reader, path string, p Pinned, label string, keys Keys) (did string, err error) {
	err = change(path, func(f *os.File, size int64) error {
		h, err := luks2.Read(f, size)
		if err == nil && headerMatches(h, p, keys.VolumeKey) == nil {
			repaired, err := luks2.Repair(rand, f, size)
			if repaired {
				did = "one copy of the header was made whole from the other"
			}
			return err
		}
		if p.PayloadOffset != luks2.PayloadOffset {
			return fmt.Errorf("writing a new header: the payload begins at %d, not at %d", p.PayloadOffset, luks2.PayloadOffset)
		}
		if size < p.End() {
			return fmt.Errorf("writing a new header: the file has %d bytes, the volume %d: %w", size, p.End(), ErrCutOff)
		}
		b, err := luks2.Encode(rand, p.params(label), keys.VolumeKey, keys.KeyslotKey)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(b, 0); err != nil {
			return err
		}
		did = "a new header was written, with the one keyslot that your key store opens"
		return f.Sync()
	})
	return did, err
}

// headerMatches checks that a header says what is pinned, and is of that key.
func headerMatches(h *luks2.Header, p Pinned, volumeKey secret.Bytes) error {
	switch {
	case h.UUID != p.UUID:
		return errors.New("it is of another volume: the UUIDs differ")
	case h.Cipher != p.Cipher || int64(h.SectorSize) != p.SectorSize || h.PayloadOffset != p.PayloadOffset || h.PayloadSize != p.AreaSize() || h.Authenticated != (p.Integrity != nil):
		return errors.New("it says other parameters than those of this volume")
	}
	ok, err := h.CheckVolumeKey(volumeKey)
	if err == nil && !ok {
		err = errors.New("it is of another volume: the volume key does not match its digest")
	}
	return err
}

// change opens a volume's file to change its header, for one program at a time.
func change(path string, do func(f *os.File, size int64) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|openNonblock, 0)
	if err != nil {
		return fmt.Errorf("opening the volume: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil {
		err = lock(f, true)
	}
	if err == nil {
		err = do(f, st.Size())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return f.Close()
}
