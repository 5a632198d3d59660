// Package jobs keeps, on the owner's machine, what was sealed: one file a job,
// named by its id, with what the job may do in it and the accessors by which
// its unused tokens can be revoked. It holds no secret: neither tokens nor
// keys, and environment variables by name only.
package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloister/client/atomicfile"
	"cloister/sealed"
)

const (
	dirName = "jobs"
	suffix  = ".json"
	format  = 1
	maxFile = 1 << 20 // bytes
)

// ErrUnknown says that the job was not sealed here.
var ErrUnknown = errors.New("this job was not sealed on this machine")

// A Record is one sealed job.
type Record struct {
	Format    int       `json:"format"`
	Job       string    `json:"job"`
	SHA256    string    `json:"sha256"` // of the sealed job
	User      string    `json:"user"`
	Cluster   string    `json:"cluster"`
	Class     string    `json:"class"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Arguments []string  `json:"arguments"`
	Variables []string  `json:"variables"` // names
	Stdout    string    `json:"stdout"`
	Stderr    string    `json:"stderr"`
	Volumes   []Volume  `json:"volumes"`
	Image     *Image    `json:"image"`
	Files     []string  `json:"files,omitempty"` // names of secret files
	Accessors []string  `json:"accessors"`       // of the tokens, see kms.Client.Revoke

	Runs *sealed.Runs `json:"runs,omitempty"` // nil if it runs once

	// Revoked is when its owner revoked the tokens, or zero.
	Revoked time.Time `json:"revoked,omitzero"`
}

// A Volume is a volume of the job.
type Volume struct {
	Path   string `json:"path"`
	Mount  string `json:"mount"`
	Mode   string `json:"mode"`
	Create bool   `json:"create"`
	Size   int64  `json:"size"` // bytes
	UUID   string `json:"uuid"`
	// Authenticated tells that each sector is.
	Authenticated bool `json:"authenticated,omitempty"`
}

// An Image is the image of the job.
type Image struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"` // "" in a volume
	Mount  string `json:"mount"`
}

// New describes a manifest; the caller adds SHA256 and Accessors.
func New(m *sealed.Manifest) *Record {
	r := &Record{
		Format: format, Job: m.Job, User: m.User, Cluster: m.Cluster, Class: m.Class, Created: m.Created, Expires: m.Expires,
		Arguments: m.Arguments, Stdout: m.Stdout, Stderr: m.Stderr, Files: m.Files, Runs: m.Runs,
	}
	for _, v := range m.Volumes {
		r.Volumes = append(r.Volumes, Volume{v.Path, v.Mount, v.Mode, v.Create, v.Size, v.Pinned.UUID, v.Pinned.Integrity != nil})
	}
	r.Variables = slices.Sorted(maps.Keys(m.Environment))
	if m.Image != nil {
		r.Image = &Image{m.Image.Path, m.Image.SHA256, m.Image.Mount}
	}
	return r
}

// Put writes a record to home, Cloister's directory.
func Put(home string, r *Record) error {
	if err := sealed.CheckJobID(r.Job); err != nil {
		return fmt.Errorf("keeping the job's record: %w", err)
	}
	dir := filepath.Join(home, dirName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping the job's record: %w", err)
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the job's record: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, r.Job+suffix), append(b, '\n'), 0o600)
}

// Remove takes a record away.
func Remove(home, job string) error {
	if err := sealed.CheckJobID(job); err != nil {
		return err
	}
	return os.Remove(filepath.Join(home, dirName, job+suffix))
}

// Get returns the record of a job by its id, or ErrUnknown.
func Get(home, job string) (*Record, error) {
	if err := sealed.CheckJobID(job); err != nil {
		return nil, err
	}
	r, err := read(filepath.Join(home, dirName, job+suffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the job's record: %w", err)
	}
	if r.Job != job {
		return nil, fmt.Errorf("looking for the job's record: that of %s is of another job", job)
	}
	return r, nil
}

// Find returns the record of the sealed job with that SHA-256, or ErrUnknown.
func Find(home, sha256 string) (*Record, error) {
	dir := filepath.Join(home, dirName)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for the job's record: %w", err)
	}
	for _, e := range entries {
		job, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || sealed.CheckJobID(job) != nil {
			continue
		}
		r, err := read(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("looking for the job's record: %w", err)
		}
		if r.Job == job && r.SHA256 == sha256 {
			return r, nil
		}
	}
	return nil, ErrUnknown
}

func read(path string) (*Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", path, maxFile)
	}
	r := new(Record)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if r.Format != format {
		return nil, fmt.Errorf("reading %s: format %d, this version reads %d", path, r.Format, format)
	}
	return r, nil
}
