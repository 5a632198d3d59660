// Package keystore keeps, on the owner's machine, what opening each volume
// takes: its pinned parameters and its keys, one file a volume, named by the
// volume's UUID.
//
// The files are readable by the owner alone and hold the keys in the clear:
// the owner's machine is trusted, and its disk is the owner's to encrypt. What
// a volume's own header says is never taken over.
package keystore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloister/client/atomicfile"
	"cloister/secret"
	"cloister/volume"
	"cloister/volume/luks2"
)

const (
	dirName = "volumes"
	suffix  = ".json"
	format  = 1
	maxFile = 64 << 10 // bytes; a real one has about 1 KiB
)

// ErrUnknown says that the store has no such volume.
var ErrUnknown = errors.New("no keys of this volume")

// A Store is the directory of the volumes' files.
type Store struct{ dir string }

// A Volume is one file of the store.
type Volume struct {
	Name    string // of the file, as it was made
	Label   string
	Job     string // id of the job that makes it on a node, or ""
	Created time.Time
	Pinned  volume.Pinned
	Keys    volume.Keys
}

// file is the JSON form. Keys are base64 there.
type file struct {
	Format     int           `json:"format"`
	UUID       string        `json:"uuid"`
	Name       string        `json:"name"`
	Label      string        `json:"label"`
	Job        string        `json:"job"`
	Created    time.Time     `json:"created"`
	Pinned     volume.Pinned `json:"pinned"`
	VolumeKey  []byte        `json:"volume_key"`
	KeyslotKey []byte        `json:"keyslot_key"`
}

// In returns the store in home, Cloister's directory. Nothing is made before
// the first Prepare or Put.
func In(home string) *Store { return &Store{filepath.Join(home, dirName)} }

// Prepare makes the store and tries to write in it, so that nothing is
// encrypted with keys that cannot be kept.
func (s *Store) Prepare() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("preparing the store of keys: %w", err)
	}
	f, err := os.CreateTemp(s.dir, ".*.tmp")
	if err != nil {
		return fmt.Errorf("preparing the store of keys: %w", err)
	}
	_, err = f.Write(make([]byte, 4096))
	if err := errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
		return fmt.Errorf("preparing the store of keys: %w", err)
	}
	return nil
}

// Put writes a volume's file. It refuses to replace one: keys are never
// overwritten.
func (s *Store) Put(v Volume) error {
	if err := v.Pinned.Validate(); err != nil {
		return fmt.Errorf("keeping a volume's keys: %w", err)
	}
	path := s.path(v.Pinned.UUID)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping a volume's keys: %s is there already", path)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keeping a volume's keys: %w", err)
	}
	b, err := json.MarshalIndent(file{
		Format: format, UUID: v.Pinned.UUID, Name: v.Name, Label: v.Label, Job: v.Job, Created: v.Created.UTC().Truncate(time.Second),
		Pinned: v.Pinned, VolumeKey: v.Keys.VolumeKey.Reveal(), KeyslotKey: v.Keys.KeyslotKey.Reveal(),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping a volume's keys: %w", err)
	}
	defer clear(b)
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}

// Get reads the file of the volume with that UUID; ErrUnknown if there is none.
func (s *Store) Get(uuid string) (Volume, error) {
	if err := luks2.ValidUUID(uuid); err != nil {
		return Volume{}, fmt.Errorf("looking for a volume's keys: %w", err)
	}
	f, err := os.Open(s.path(uuid))
	if errors.Is(err, fs.ErrNotExist) {
		return Volume{}, fmt.Errorf("%w in %s (UUID %s)", ErrUnknown, s.dir, uuid)
	}
	if err != nil {
		return Volume{}, fmt.Errorf("looking for a volume's keys: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	defer clear(b)
	if err != nil {
		return Volume{}, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	v, err := decode(b, uuid)
	if err != nil {
		return Volume{}, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return v, nil
}

func decode(b []byte, uuid string) (Volume, error) {
	if len(b) > maxFile {
		return Volume{}, fmt.Errorf("larger than %d bytes", maxFile)
	}
	var f file
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Volume{}, err
	}
	v := Volume{Name: f.Name, Label: f.Label, Job: f.Job, Created: f.Created, Pinned: f.Pinned,
		Keys: volume.Keys{VolumeKey: secret.New(f.VolumeKey), KeyslotKey: secret.New(f.KeyslotKey)}}
	err := f.Pinned.Validate()
	switch {
	case err != nil:
	case f.Format != format:
		err = fmt.Errorf("format %d, this version reads %d", f.Format, format)
	case f.UUID != uuid || f.Pinned.UUID != uuid:
		err = errors.New("it is of another volume than its name says")
	case v.Keys.VolumeKey.Len() != luks2.VolumeKeySize || v.Keys.KeyslotKey.Len() != luks2.KeyslotKeySize:
		err = errors.New("a key of the wrong length")
	}
	if _, e := d.Token(); err == nil && !errors.Is(e, io.EOF) {
		err = errors.New("something follows its end")
	}
	if err != nil {
		v.Keys.Wipe()
		return Volume{}, err
	}
	return v, nil
}

// Named returns the volumes whose file had that name, newest first, with their
// keys.
func (s *Store) Named(name string) ([]Volume, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a volume's keys: %w", err)
	}
	var found []Volume
	for _, e := range entries {
		uuid, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || luks2.ValidUUID(uuid) != nil {
			continue
		}
		v, err := s.Get(uuid)
		if err != nil {
			return nil, err
		}
		if v.Name != name {
			v.Keys.Wipe()
			continue
		}
		found = append(found, v)
	}
	slices.SortFunc(found, func(a, b Volume) int { return b.Created.Compare(a.Created) })
	return found, nil
}

// Remove takes a volume's file away: the volume can then be opened no more.
func (s *Store) Remove(uuid string) error {
	if err := luks2.ValidUUID(uuid); err != nil {
		return err
	}
	if err := os.Remove(s.path(uuid)); err != nil {
		return fmt.Errorf("removing a volume's keys: %w", err)
	}
	return nil
}

func (s *Store) path(uuid string) string { return filepath.Join(s.dir, uuid+suffix) }
