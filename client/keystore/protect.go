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
	"strings"

	"cloister/client/atomicfile"
	"cloister/secret"

	"filippo.io/age"
	"filippo.io/age/armor"
)

const (
	// protectionName, in Cloister's directory, has the age identity that opens
	// the keys, itself encrypted under the owner's passphrase (age's scrypt).
	protectionName   = "volumes-protection.json"
	protectionFormat = 1
)

// ErrWrongPassphrase says that the store does not open with that passphrase.
var ErrWrongPassphrase = errors.New("the store of keys does not open with this passphrase")

// An Asker asks the owner for a passphrase, without echo.
type Asker func(prompt string) (secret.Bytes, error)

// protection is the JSON form of protectionName.
type protection struct {
	Format    int    `json:"format"`
	Recipient string `json:"recipient"` // age, hybrid post-quantum
	Identity  string `json:"identity"`  // age file in armor, under a passphrase
}

// Asking makes the store ask a for its passphrase when it needs keys, once.
func (s *Store) Asking(a Asker) *Store {
	s.ask = a
	return s
}

// Protected reports whether the keys are encrypted.
func (s *Store) Protected() (bool, error) {
	p, err := s.protection()
	return p != nil, err
}

// Protect encrypts the store's keys, those that are there and those that come:
// they are encrypted to an age identity of the store's own, and that under
// passphrase. Of a store that is protected already it changes the passphrase,
// for which it asks for the old one. It may be run again after a crash.
//
// What the disk held before may still be there: deleting is not overwriting.
func (s *Store) Protect(passphrase secret.Bytes) error {
	if err := s.protect(passphrase); err != nil {
		return fmt.Errorf("protecting the store of keys: %w", err)
	}
	return nil
}

func (s *Store) protect(passphrase secret.Bytes) error {
	p, err := s.protection()
	if err != nil {
		return err
	}
	if p == nil {
		if s.identity, err = age.GenerateHybridIdentity(); err != nil {
			return err
		}
	} else if err := s.unlock(p); err != nil {
		return err
	}
	under, err := age.NewScryptRecipient(string(passphrase.Reveal()))
	if err != nil {
		return err
	}
	if s.workFactor != 0 {
		under.SetWorkFactor(s.workFactor)
	}
	sealed, err := encrypt([]byte(s.identity.String()), under)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(protection{protectionFormat, s.identity.Recipient().String(), sealed}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(s.protectionPath(), append(b, '\n'), 0o600); err != nil {
		return err
	}
	return s.encryptAll()
}

// encryptAll writes the files whose keys are in the clear anew.
func (s *Store) encryptAll() error {
	uuids, err := s.uuids()
	if err != nil {
		return err
	}
	for _, uuid := range uuids {
		f, err := s.read(uuid)
		if err != nil {
			return err
		}
		if f.Format == formatSealed {
			continue
		}
		v, err := f.volume()
		if err != nil {
			return err
		}
		err = s.write(v)
		v.Keys.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) protectionPath() string { return filepath.Join(filepath.Dir(s.dir), protectionName) }

// protection reads how the store is protected, nil if it is not.
func (s *Store) protection() (*protection, error) {
	b, err := readSmall(s.protectionPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p protection
	if err := strict(b, &p); err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.protectionPath(), err)
	}
	if p.Format != protectionFormat {
		return nil, fmt.Errorf("reading %s: format %d, this version reads %d", s.protectionPath(), p.Format, protectionFormat)
	}
	return &p, nil
}

// unlock opens the store's identity, which it then keeps.
func (s *Store) unlock(p *protection) error {
	if s.identity != nil {
		return nil
	}
	if s.ask == nil {
		return errors.New("the store of keys is protected by a passphrase")
	}
	passphrase, err := s.ask("Passphrase of your volumes' keys: ")
	if err != nil {
		return err
	}
	defer passphrase.Wipe()
	under, err := age.NewScryptIdentity(string(passphrase.Reveal()))
	if err != nil {
		return err
	}
	text, err := decrypt(p.Identity, under)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return ErrWrongPassphrase
		}
		return fmt.Errorf("opening the store of keys: %w", err)
	}
	defer clear(text)
	id, err := age.ParseHybridIdentity(string(text))
	if err != nil {
		return errors.New("opening the store of keys: what the passphrase opens is no identity")
	}
	if id.Recipient().String() != p.Recipient {
		return errors.New("opening the store of keys: its recipient is not that of its identity")
	}
	s.identity = id
	return nil
}

// sealedKeys is what a protected file holds in its field sealed. The UUID
// binds it to its file.
type sealedKeys struct {
	UUID       string `json:"uuid"`
	VolumeKey  []byte `json:"volume_key"`
	KeyslotKey []byte `json:"keyslot_key"`
}

func (p *protection) seal(k sealedKeys) (string, error) {
	r, err := age.ParseHybridRecipient(p.Recipient)
	if err != nil {
		return "", fmt.Errorf("reading the store's recipient: %w", err)
	}
	b, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	defer clear(b)
	return encrypt(b, r)
}

// openSealed fills in the keys of a file that has them encrypted.
func (s *Store) openSealed(f *file) error {
	p, err := s.protection()
	if err != nil {
		return err
	}
	if p == nil {
		return fmt.Errorf("its keys are encrypted, and %s is missing: restore it from a backup", s.protectionPath())
	}
	if err := s.unlock(p); err != nil {
		return err
	}
	b, err := decrypt(f.Sealed, s.identity)
	if err != nil {
		return fmt.Errorf("decrypting its keys: %w", err)
	}
	defer clear(b)
	var k sealedKeys
	if err := strict(b, &k); err != nil {
		return err
	}
	if k.UUID != f.UUID {
		return errors.New("its keys are another volume's")
	}
	f.VolumeKey, f.KeyslotKey = k.VolumeKey, k.KeyslotKey
	return nil
}

func encrypt(b []byte, to age.Recipient) (string, error) {
	var out strings.Builder
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, to)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(b); err != nil {
		return "", err
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return "", err
	}
	return out.String(), nil
}

func decrypt(text string, id age.Identity) ([]byte, error) {
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(text)), id)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return b, err
}

// strict decodes JSON: unknown fields, and anything after it, are errors.
func strict(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its end")
	}
	return nil
}
