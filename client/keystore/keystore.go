// Package keystore keeps, on the owner's machine, what opening each volume
// takes: its pinned parameters and its keys, one file a volume, named by the
// volume's UUID.
//
// The files are readable by the owner alone. They hold the keys in the clear,
// for the owner's machine is trusted, and its disk is the owner's to encrypt;
// or encrypted with age under a passphrase, if the owner wants that (Protect).
// Keeping keys never asks for it, taking them out does. That guards against who
// finds a backup or a lost disk, not against who can write to the store.
//
// What a volume's own header says is never taken over.
package keystore

import (
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

	"filippo.io/age"
)

const (
	dirName = "volumes"
	suffix  = ".json"
	maxFile = 64 << 10 // bytes; a real one has about 1 KiB, or 4 if encrypted

	format       = 1 // keys in the clear
	formatSealed = 2 // keys encrypted
)

// ErrUnknown says that the store has no such volume.
var ErrUnknown = errors.New("no keys of this volume")

// A Store is the directory of the volumes' files.
type Store struct {
	dir        string
	ask        Asker
	identity   *age.HybridIdentity // once it was unlocked
	workFactor int                 // of scrypt; 0 is age's default
}

// A Volume is one file of the store.
type Volume struct {
	Name    string // of the file, as it was made
	Label   string
	Job     string // id of the job that makes it on a node, or ""
	Created time.Time
	Pinned  volume.Pinned
	Keys    volume.Keys
	// Seen is the newest state that an authenticated volume was seen in here.
	Seen volume.State
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
	VolumeKey  []byte        `json:"volume_key,omitempty"`
	KeyslotKey []byte        `json:"keyslot_key,omitempty"`
	Sealed     string        `json:"sealed,omitempty"` // sealedKeys as an age file, with formatSealed
	Seen       volume.State  `json:"seen,omitzero"`
}

// In returns the store in home, Cloister's directory. Nothing is made before
// the first Prepare or Put.
func In(home string) *Store { return &Store{dir: filepath.Join(home, dirName)} }

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
	path := s.Path(v.Pinned.UUID)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping a volume's keys: %s is there already", path)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keeping a volume's keys: %w", err)
	}
	if err := s.write(v); err != nil {
		return fmt.Errorf("keeping a volume's keys: %w", err)
	}
	return nil
}

// write writes a volume's file, its keys encrypted if the store is protected.
func (s *Store) write(v Volume) error {
	p, err := s.protection()
	if err != nil {
		return err
	}
	f := file{
		Format: format, UUID: v.Pinned.UUID, Name: v.Name, Label: v.Label, Job: v.Job, Created: v.Created.UTC().Truncate(time.Second),
		Pinned: v.Pinned, Seen: v.Seen,
	}
	if p == nil {
		f.VolumeKey, f.KeyslotKey = v.Keys.VolumeKey.Reveal(), v.Keys.KeyslotKey.Reveal()
	} else {
		f.Format = formatSealed
		if f.Sealed, err = p.seal(sealedKeys{f.UUID, v.Keys.VolumeKey.Reveal(), v.Keys.KeyslotKey.Reveal()}); err != nil {
			return err
		}
	}
	return s.writeFile(f)
}

// See notes a state in which an authenticated volume was seen, unless a newer
// one is noted. It asks for no passphrase.
func (s *Store) See(uuid string, seen volume.State) error {
	f, err := s.read(uuid)
	if err != nil {
		return err
	}
	defer clear(f.VolumeKey)
	defer clear(f.KeyslotKey)
	if err := errors.Join(seen.Validate(), seen.After(f.Seen)); err != nil || f.Seen == seen {
		return err
	}
	f.Seen = seen
	if err := s.writeFile(f); err != nil {
		return fmt.Errorf("noting the state of a volume: %w", err)
	}
	return nil
}

func (s *Store) writeFile(f file) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	defer clear(b)
	return atomicfile.Write(s.Path(f.UUID), append(b, '\n'), 0o600)
}

// Get reads the file of the volume with that UUID; ErrUnknown if there is none.
// It asks for the passphrase of a protected store.
func (s *Store) Get(uuid string) (Volume, error) {
	f, err := s.read(uuid)
	if err != nil {
		return Volume{}, err
	}
	return s.open(f)
}

// Describe is Get without the keys, and asks for nothing.
func (s *Store) Describe(uuid string) (Volume, error) {
	f, err := s.read(uuid)
	if err != nil {
		return Volume{}, err
	}
	clear(f.VolumeKey)
	clear(f.KeyslotKey)
	f.VolumeKey, f.KeyslotKey = nil, nil
	return f.described(), nil
}

// open takes the keys out of a file.
func (s *Store) open(f file) (Volume, error) {
	if f.Format == formatSealed {
		if err := s.openSealed(&f); err != nil {
			return Volume{}, fmt.Errorf("reading %s: %w", s.Path(f.UUID), err)
		}
	}
	v, err := f.volume()
	if err != nil {
		return Volume{}, fmt.Errorf("reading %s: %w", s.Path(f.UUID), err)
	}
	return v, nil
}

func (f file) described() Volume {
	return Volume{Name: f.Name, Label: f.Label, Job: f.Job, Created: f.Created, Pinned: f.Pinned, Seen: f.Seen}
}

// volume moves the keys out of f, which has them in the clear.
func (f file) volume() (Volume, error) {
	v := f.described()
	v.Keys = volume.Keys{VolumeKey: secret.New(f.VolumeKey), KeyslotKey: secret.New(f.KeyslotKey)}
	if v.Keys.VolumeKey.Len() != v.Pinned.KeySize() || v.Keys.KeyslotKey.Len() != luks2.KeyslotKeySize {
		v.Keys.Wipe()
		return Volume{}, errors.New("a key of the wrong length")
	}
	return v, nil
}

// read reads and checks a volume's file.
func (s *Store) read(uuid string) (file, error) {
	if err := luks2.ValidUUID(uuid); err != nil {
		return file{}, fmt.Errorf("looking for a volume's keys: %w", err)
	}
	b, err := readSmall(s.Path(uuid))
	defer clear(b)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, fmt.Errorf("%w in %s (UUID %s)", ErrUnknown, s.dir, uuid)
	}
	if err != nil {
		return file{}, fmt.Errorf("looking for a volume's keys: %w", err)
	}
	f, err := decode(b, uuid)
	if err != nil {
		return file{}, fmt.Errorf("reading %s: %w", s.Path(uuid), err)
	}
	return f, nil
}

// readSmall reads a file of at most maxFile bytes.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		clear(b)
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

func decode(b []byte, uuid string) (file, error) {
	var f file
	if err := strict(b, &f); err != nil {
		return file{}, err
	}
	err := f.Pinned.Validate()
	clearText, sealed := len(f.VolumeKey)+len(f.KeyslotKey) > 0, f.Sealed != ""
	switch {
	case err != nil:
	case f.Format != format && f.Format != formatSealed:
		err = fmt.Errorf("format %d, this version reads %d and %d", f.Format, format, formatSealed)
	case f.Seen != volume.State{} && f.Seen.Validate() != nil:
		err = f.Seen.Validate()
	case f.UUID != uuid || f.Pinned.UUID != uuid:
		err = errors.New("it is of another volume than its name says")
	case f.Format == format && sealed || f.Format == formatSealed && (clearText || !sealed):
		err = fmt.Errorf("format %d with keys of another", f.Format)
	case f.Format == format && (len(f.VolumeKey) != f.Pinned.KeySize() || len(f.KeyslotKey) != luks2.KeyslotKeySize):
		err = errors.New("a key of the wrong length")
	}
	if err != nil {
		clear(f.VolumeKey)
		clear(f.KeyslotKey)
		return file{}, err
	}
	return f, nil
}

// uuids lists the volumes in the store.
func (s *Store) uuids() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a volume's keys: %w", err)
	}
	var out []string
	for _, e := range entries {
		if uuid, ok := strings.CutSuffix(e.Name(), suffix); ok && luks2.ValidUUID(uuid) == nil {
			out = append(out, uuid)
		}
	}
	return out, nil
}

// Named returns the volumes whose file had that name, newest first, with their
// keys.
func (s *Store) Named(name string) ([]Volume, error) {
	uuids, err := s.uuids()
	if err != nil {
		return nil, err
	}
	var found []Volume
	for _, uuid := range uuids {
		f, err := s.read(uuid)
		if err != nil {
			return nil, err
		}
		if f.Name != name {
			clear(f.VolumeKey)
			clear(f.KeyslotKey)
			continue
		}
		v, err := s.open(f)
		if err != nil {
			return nil, err
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
	if err := os.Remove(s.Path(uuid)); err != nil {
		return fmt.Errorf("removing a volume's keys: %w", err)
	}
	return nil
}

// Path is where the file of the volume with that UUID is, for messages.
func (s *Store) Path(uuid string) string { return filepath.Join(s.dir, uuid+suffix) }
