// Package replay remembers which sealed jobs a node has run, until they
// expire, so that none runs twice here even if its token could be redeemed
// again. Across nodes the token itself is what works only once. A job that may
// run several times is as many here: its id is that of the run (sealed.Run.ID).
package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// ErrSeen says that this node has run, or tried to run, the job before.
var ErrSeen = errors.New("this node has already taken that sealed job")

var idForm = regexp.MustCompile(`^[0-9a-f]{32}(_[0-9]{1,7})?(r[0-9]{1,4})?$`)

// A Store is a directory with an empty file for each job that was taken and
// one for each whose key was asked for; its modification time is the expiry.
type Store struct{ dir string }

// Open makes the directory if need be, for root alone. It must lie on a disk:
// a reboot forgets nothing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the store of jobs seen: %w", err)
	}
	return &Store{dir}, nil
}

// Claim records the job, durably, or returns ErrSeen. Of several callers at
// once one gets it.
func (s *Store) Claim(id string, expires time.Time) error {
	if !idForm.MatchString(id) {
		return badID(id)
	}
	return s.mark(id, expires)
}

// Seen reports whether the job was claimed here before.
func (s *Store) Seen(id string) (bool, error) {
	if !idForm.MatchString(id) {
		return false, badID(id)
	}
	_, err := os.Lstat(filepath.Join(s.dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a job seen before: %w", err)
	}
	return true, nil
}

// Asked marks, durably, that this node is about to ask the KMS for the job's
// key. It reports whether it had asked before: then a token that is gone may
// be one whose answer was lost, not one that somebody stole.
func (s *Store) Asked(id string, expires time.Time) (before bool, err error) {
	if !idForm.MatchString(id) {
		return false, badID(id)
	}
	err = s.mark(id+askedSuffix, expires)
	if errors.Is(err, ErrSeen) {
		return true, nil
	}
	return false, err
}

// NotAsked takes the mark of Asked back, when it is known that the question
// never reached the KMS.
func (s *Store) NotAsked(id string) error {
	if !idForm.MatchString(id) {
		return badID(id)
	}
	if err := os.Remove(filepath.Join(s.dir, id+askedSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("taking back a mark: %w", err)
	}
	return nil
}

func badID(id string) error { return fmt.Errorf("%q is not the id of a job's run", id) }

const askedSuffix = ".asked"

// mark makes the file, on disk before it returns, or says ErrSeen. A crash
// before Chtimes leaves it with the present time, so that the next Purge
// forgets it: the key had not been asked for by then.
func (s *Store) mark(name string, expires time.Time) error {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return ErrSeen
	}
	if err != nil {
		return fmt.Errorf("recording the job: %w", err)
	}
	err = errors.Join(os.Chtimes(path, expires, expires), f.Sync(), f.Close(), syncDir(s.dir))
	if err != nil {
		return fmt.Errorf("recording the job: %w", err)
	}
	return nil
}

// Purge forgets the jobs that expired before now and returns how many marks.
// Call it before the first Claim: it could take a half-made mark for old.
func (s *Store) Purge(now time.Time) (int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("reading the store of jobs seen: %w", err)
	}
	n := 0
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("reading the store of jobs seen: %w", err)
		}
		if info.ModTime().Before(now) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return n, fmt.Errorf("forgetting an expired job: %w", err)
			}
			n++
		}
	}
	return n, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
