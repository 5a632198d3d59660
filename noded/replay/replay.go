// Package replay remembers which sealed jobs a node has run, until they
// expire, so that none runs twice here even if its token could be redeemed
// again. Across nodes the token itself is what works only once.
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

var idForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// A Store is a directory with one empty file for each job, whose modification
// time is the job's expiry.
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
		return fmt.Errorf("job id %q is not 32 hexadecimal digits", id)
	}
	path := filepath.Join(s.dir, id)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return ErrSeen
	}
	if err != nil {
		return fmt.Errorf("recording the job: %w", err)
	}
	// The mark must be on disk before the token is asked for, or a power cut
	// could forget it. Until Chtimes it carries the present time, which Purge
	// takes for expired; but a claim is given up only when the job's own
	// expiry has passed, and an unfinished one by then was never admitted.
	err = errors.Join(os.Chtimes(path, expires, expires), f.Sync(), f.Close(), syncDir(s.dir))
	if err != nil {
		return fmt.Errorf("recording the job: %w", err)
	}
	return nil
}

// Purge forgets the jobs that expired before now and returns how many.
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
