package luks2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"cloister/secret"
)

// A Device is a volume's file that is changed in place. Sync returns once
// everything that was written will survive a crash.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

var (
	// ErrLastKeyslot says that a volume would be left without a keyslot.
	ErrLastKeyslot = errors.New("it is the last keyslot: nothing could open the volume any more")
	// ErrNoRoom says that the header has no room for another keyslot.
	ErrNoRoom = errors.New("the header has no room for another keyslot")
	// ErrNoKeyslot says that there is no keyslot of that number.
	ErrNoKeyslot = errors.New("no such keyslot")
)

// AddKeyslot makes a keyslot that key opens in the volume d of size bytes, and
// returns its number. volumeKey must be that of the volume. rand must be
// crypto/rand.Reader outside tests.
func AddKeyslot(rand io.Reader, d Device, size int64, volumeKey, key secret.Bytes, k KDF) (int, error) {
	e, err := edit(rand, d, size)
	if err != nil {
		return 0, fmt.Errorf("adding a keyslot: %w", err)
	}
	id, err := e.freeID()
	if err == nil {
		err = e.put(id, volumeKey, key, k)
	}
	if err == nil {
		err = e.commit()
	}
	if err != nil {
		return 0, fmt.Errorf("adding a keyslot: %w", err)
	}
	n, err := decimal(id)
	return int(n), err
}

// ChangeKeyslot makes keyslot id open with key and no more with what opened it
// before. It needs room for one keyslot: the old one is overwritten only when
// the new one is in place.
func ChangeKeyslot(rand io.Reader, d Device, size int64, id int, volumeKey, key secret.Bytes, k KDF) error {
	e, err := edit(rand, d, size)
	if err != nil {
		return fmt.Errorf("changing keyslot %d: %w", id, err)
	}
	name := idText(id)
	old, ok := e.meta.Keyslots[name]
	if !ok {
		err = ErrNoKeyslot
	} else if !slices.Contains(e.meta.segmentDigest().Keyslots, name) {
		err = errors.New("it does not hold this volume's key")
	}
	if err == nil {
		err = e.put(name, volumeKey, key, k)
	}
	if err == nil {
		err = e.commit()
	}
	if err == nil {
		err = e.overwrite(old.Area)
	}
	if err != nil {
		return fmt.Errorf("changing keyslot %d: %w", id, err)
	}
	return nil
}

// RemoveKeyslot overwrites keyslot id and takes it out of the header. It
// refuses to remove the last one that opens the volume.
func RemoveKeyslot(rand io.Reader, d Device, size int64, id int) error {
	e, err := edit(rand, d, size)
	if err != nil {
		return fmt.Errorf("removing keyslot %d: %w", id, err)
	}
	name := idText(id)
	old, ok := e.meta.Keyslots[name]
	bound := e.meta.segmentDigest().Keyslots
	switch {
	case !ok:
		err = ErrNoKeyslot
	case len(bound) == 1 && bound[0] == name:
		err = ErrLastKeyslot
	}
	if err == nil {
		err = e.forget(name)
	}
	// The area goes first: after a crash in between, the keyslot is listed but
	// opens no more, which is what was asked for.
	if err == nil {
		err = e.overwrite(old.Area)
	}
	if err == nil {
		err = e.commit()
	}
	if err != nil {
		return fmt.Errorf("removing keyslot %d: %w", id, err)
	}
	return nil
}

// Repair writes the copy of the header that counts over the other one, if that
// is damaged or older, and reports whether it did.
func Repair(rand io.Reader, d Device, size int64) (bool, error) {
	h, err := Read(d, size)
	if err != nil {
		return false, err
	}
	e := editor{rand: rand, d: d, disk: *h.disk}
	if h.Primary != nil {
		return true, e.writeCopy(false)
	}
	if h.Secondary != nil {
		return true, e.writeCopy(true)
	}
	return false, nil
}

// idText is a keyslot's number as the JSON area has it.
func idText(id int) string { return strconv.Itoa(id) }

// editor changes a header that it has read.
type editor struct {
	rand io.Reader
	d    Device
	size int64
	disk onDisk
	meta metadata // a copy of its own
}

// edit begins a change. Both copies are made whole first: the change damages
// one at a time, and the other must then be there.
func edit(rand io.Reader, d Device, size int64) (*editor, error) {
	if _, err := Repair(rand, d, size); err != nil {
		return nil, err
	}
	h, err := Read(d, size)
	if err != nil {
		return nil, err
	}
	e := &editor{rand: rand, d: d, size: size, disk: *h.disk, meta: *h.disk.meta}
	e.meta.Keyslots = maps.Clone(e.meta.Keyslots)
	e.meta.Digests = maps.Clone(e.meta.Digests)
	e.meta.Tokens = maps.Clone(e.meta.Tokens)
	return e, nil
}

func (e *editor) freeID() (string, error) {
	for n := range maxObjects {
		if _, ok := e.meta.Keyslots[idText(n)]; !ok {
			return idText(n), nil
		}
	}
	return "", ErrNoRoom
}

// put writes a keyslot's area where nothing lies and enters it in the copy of
// the metadata, in place of one of the same number.
func (e *editor) put(id string, volumeKey, key secret.Bytes, k KDF) error {
	dig := e.meta.segmentDigest()
	ok, err := dig.matches(volumeKey)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("the header is that of another volume: its digest does not match the volume key")
	}
	salt := make([]byte, saltSize)
	if _, err := io.ReadFull(e.rand, salt); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	slot := newKeyslot(volumeKey.Len(), 0, k.withSalt(salt))
	if err := slot.KDF.validate(); err != nil {
		return err
	}
	at, err := e.freeArea(int64(slot.Area.Size))
	if err != nil {
		return err
	}
	slot.Area.Offset = u64(at)
	b, err := slot.seal(e.rand, volumeKey, key)
	if err != nil {
		return err
	}
	if err := e.write(b, at); err != nil {
		return err
	}
	e.meta.Keyslots[id] = slot
	if !slices.Contains(dig.Keyslots, id) {
		dig.Keyslots = append(slices.Clone(dig.Keyslots), id)
		e.meta.Digests[e.meta.segmentDigestID()] = dig
	}
	return nil
}

// freeArea finds the first gap of n bytes in the keyslots area.
func (e *editor) freeArea(n int64) (int64, error) {
	areas := make([]area, 0, len(e.meta.Keyslots))
	for _, k := range e.meta.Keyslots {
		areas = append(areas, k.Area)
	}
	slices.SortFunc(areas, func(a, b area) int { return int(a.Offset - b.Offset) })
	at := 2 * e.disk.size
	for _, a := range areas {
		if int64(a.Offset)-at >= n {
			return at, nil
		}
		at = int64(a.Offset) + int64(a.Size)
	}
	if at+n > 2*e.disk.size+int64(e.meta.Config.KeyslotsSize) {
		return 0, ErrNoRoom
	}
	return at, nil
}

// forget takes a keyslot out of the metadata and out of all that names it.
func (e *editor) forget(id string) error {
	delete(e.meta.Keyslots, id)
	without := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(k string) bool { return k == id })
	}
	for n, d := range e.meta.Digests {
		d.Keyslots = without(d.Keyslots)
		if len(d.Keyslots)+len(d.Segments) == 0 {
			delete(e.meta.Digests, n) // cryptsetup, too, drops a digest of nothing
			continue
		}
		e.meta.Digests[n] = d
	}
	for n, raw := range e.meta.Tokens {
		t, err := readToken(raw)
		if err != nil {
			return fmt.Errorf("token %s: %w", n, err)
		}
		if !slices.Contains(t.keyslots, id) {
			continue
		}
		if t.fields["keyslots"], err = json.Marshal(without(t.keyslots)); err != nil {
			return fmt.Errorf("token %s: %w", n, err)
		}
		if e.meta.Tokens[n], err = json.Marshal(t.fields); err != nil {
			return fmt.Errorf("token %s: %w", n, err)
		}
	}
	return nil
}

// commit writes the changed metadata: the primary header, then the secondary,
// as cryptsetup does. Each is on disk before the other is touched.
func (e *editor) commit() error {
	text, err := json.Marshal(&e.meta)
	if err != nil {
		return err
	}
	if int64(len(text)) >= e.disk.size-binarySize {
		return ErrNoRoom
	}
	e.disk.text, e.disk.meta = text, &e.meta
	e.disk.seqID++
	if err := e.disk.validate(e.size); err != nil {
		return fmt.Errorf("the changed header would not be valid: %w", err)
	}
	if err := e.writeCopy(false); err != nil {
		return err
	}
	return e.writeCopy(true)
}

func (e *editor) writeCopy(secondary bool) error {
	salt := make([]byte, saltInHeader)
	if _, err := io.ReadFull(e.rand, salt); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	at := int64(0)
	if secondary {
		at = e.disk.size
	}
	return e.write(encodeCopy(e.disk, salt, secondary), at)
}

// overwrite replaces a keyslot's area by random bytes.
func (e *editor) overwrite(a area) error {
	b := make([]byte, int64(a.Size))
	if _, err := io.ReadFull(e.rand, b); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	return e.write(b, int64(a.Offset))
}

// write writes and syncs: every step must be on disk before the next.
func (e *editor) write(b []byte, at int64) error {
	if _, err := e.d.WriteAt(b, at); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	if err := e.d.Sync(); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	return nil
}
