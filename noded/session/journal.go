package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"cloister/noded/cgroup"
	"cloister/noded/stepproof"
	"cloister/noded/userfile"
	"cloister/sealed"

	"github.com/google/renameio/v2"
)

// A Record is what a restarted noded needs to find and undo, or adopt, a
// session. It holds no secret.
type Record struct {
	// ID is the sealed job's id, 32 hexadecimal digits.
	ID string `json:"id"`
	// Job is Slurm's number, Stepd the process id of its batch step's slurmstepd.
	Job   uint32 `json:"job"`
	Stepd int    `json:"stepd"`
	// Run says which run of the sealed job it is; nil in the journal of a noded
	// that did not note it.
	Run *sealed.Run `json:"run,omitempty"`
	// UID, GID, Groups and User are the job's owner by the node's own database.
	UID     uint32     `json:"uid"`
	GID     uint32     `json:"gid"`
	Groups  []uint32   `json:"groups,omitempty"`
	User    string     `json:"user"`
	Cgroup  cgroup.Job `json:"cgroup"`
	Started time.Time  `json:"started"`
	// Begun lists the steps that were begun and not yet undone, in order.
	Begun []string `json:"begun"`
	// Made are the files that the session makes for its results, until the script
	// may have begun: from then on they are the user's.
	Made []userfile.Made `json:"made,omitempty"`
	// Doors is what lockdown found before it closed them, in its own form.
	Doors json.RawMessage `json:"doors,omitempty"`
	// Steps are the numbers of the job steps that were let in.
	Steps stepproof.Spent `json:"steps,omitempty"`
	// Releasing is set once the way back began.
	Releasing bool `json:"releasing"`
}

// recordLimit bounds a journal entry in bytes; a real one has about 1 KiB. The
// most that a user can bring about are sealed.MaxVolumes paths of PATH_MAX, of
// which JSON makes six bytes of one.
const recordLimit = 2 << 20

// A Journal keeps one file for each session in a directory on tmpfs: after a
// power cut there is no session left to undo, so it must not outlive one.
type Journal struct{ dir string }

// OpenJournal makes the directory if need be, for root alone.
func OpenJournal(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the session journal: %w", err)
	}
	return &Journal{dir}, nil
}

var idForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (j *Journal) path(id string) (string, error) {
	if !idForm.MatchString(id) {
		return "", fmt.Errorf("session id %q is not 32 hexadecimal digits", id)
	}
	return filepath.Join(j.dir, id+".json"), nil
}

// Save replaces the record's file atomically.
func (j *Journal) Save(r *Record) error {
	path, err := j.path(r.ID)
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the session journal: %w", err)
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("writing the session journal: %w", err)
	}
	return nil
}

// Remove forgets a session; one that is not there is no error.
func (j *Journal) Remove(id string) error {
	path, err := j.path(id)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the session's journal entry: %w", err)
	}
	return nil
}

// Load returns every session that a predecessor left. A file that it cannot
// read is an error: something was done that nobody knows how to undo.
func (j *Journal) Load() ([]*Record, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the session journal: %w", err)
	}
	var records []*Record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !idForm.MatchString(id) {
			continue // a temporary file of Save that a crash left behind
		}
		b, err := os.ReadFile(filepath.Join(j.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the session journal: %w", err)
		}
		r, err := parseRecord(b)
		if err != nil {
			return nil, fmt.Errorf("reading the session journal %s: %w", e.Name(), err)
		}
		if r.ID != id {
			return nil, fmt.Errorf("journal entry %s is of session %s", e.Name(), r.ID)
		}
		records = append(records, r)
	}
	return records, nil
}

func parseRecord(b []byte) (*Record, error) {
	if len(b) > recordLimit {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), recordLimit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var r Record
	if err := d.Decode(&r); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the record")
	}
	return &r, nil
}
