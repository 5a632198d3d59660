package site

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	dirName = "sites"
	suffix  = ".toml"
)

var (
	// ErrUnknown: no site file of that cluster was added.
	ErrUnknown = errors.New("no site file of that cluster")
	// ErrSeveral: the user must name the cluster.
	ErrSeveral = errors.New("there are site files of several clusters")
)

// ConflictError is Add's refusal to replace a cluster's site file by a
// different one.
type ConflictError struct {
	Cluster  string
	Old, New string // fingerprints
	// Why says why the new one does not replace the old by itself.
	Why string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("cluster %s has a different site file already: it has %s, the new one %s, which %s", e.Cluster, e.Old, e.New, e.Why)
}

// Added says what Add did.
type Added struct {
	Path        string
	Fingerprint string
	// Replaced is the fingerprint of the different file that was there, or "".
	Replaced string
	// Trusted: it replaced one that the same administrator's key had signed.
	Trusted bool
	// Known: the same file was there already.
	Known bool
}

// Add stores a site file, in its canonical form, in home, Cloister's own
// directory (the default is os.UserConfigDir()/cloister). Adding the same
// file again changes nothing. The first file that is added for a cluster pins
// the key that signed it: a later one by that key replaces it. Any other file of
// the same cluster is a *ConflictError unless force is set. What is stored is readable by the user
// only, and there is never half a file.
func Add(home string, data []byte, force bool) (Added, error) {
	f, err := Parse(data)
	if err != nil {
		return Added{}, err
	}
	b, err := f.signed()
	if err != nil {
		return Added{}, err
	}
	a := Added{Path: path(home, f.Cluster), Fingerprint: f.Fingerprint()}
	old, err := read(a.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !force:
		return Added{}, fmt.Errorf("the site file that is there already cannot be read: %w", err)
	case err != nil:
		a.Replaced = "a file that could not be read"
	case old.Fingerprint() == a.Fingerprint:
		a.Known = true
		return a, nil
	case why(old, f) == "":
		a.Replaced, a.Trusted = old.Fingerprint(), true
	case !force:
		return Added{}, &ConflictError{f.Cluster, old.Fingerprint(), a.Fingerprint, why(old, f)}
	default:
		a.Replaced = old.Fingerprint()
	}
	if err := os.MkdirAll(filepath.Dir(a.Path), 0o700); err != nil {
		return Added{}, fmt.Errorf("storing the site file: %w", err)
	}
	if err := writeFile(a.Path, b); err != nil {
		return Added{}, fmt.Errorf("storing the site file: %w", err)
	}
	return a, nil
}

// why says why a file does not replace an old one by itself, "" if it does. The
// time keeps out who plays back an older file, which may name a stolen identity.
func why(old, f *File) string {
	switch {
	case f.SignedBy() == "":
		return "no signature vouches for"
	case old.SignedBy() == "":
		return "is the first that is signed, by the key " + f.SignedBy()
	case old.SignedBy() != f.SignedBy():
		return "another key signed: " + f.SignedBy() + ", not " + old.SignedBy()
	case !f.IssuedAt().After(old.IssuedAt()):
		return "is not newer"
	}
	return ""
}

// Load reads the site file of a cluster that was added to home. With cluster
// "" it is the only one there is, else ErrSeveral.
func Load(home, cluster string) (*File, error) {
	if cluster == "" {
		names, err := List(home)
		if err != nil {
			return nil, err
		}
		switch len(names) {
		case 0:
			return nil, fmt.Errorf("loading the site file: %w: ask the administrator for it, then cloister site add FILE", ErrUnknown)
		case 1:
			cluster = names[0]
		default:
			return nil, fmt.Errorf("loading the site file: %w: name one of %s", ErrSeveral, strings.Join(names, ", "))
		}
	}
	if !clusterName.MatchString(cluster) {
		return nil, fmt.Errorf("loading the site file: %q is not the name of a cluster", cluster)
	}
	f, err := read(path(home, cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("loading the site file of %s: %w: ask the administrator for it, then cloister site add FILE", cluster, ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the site file of %s: %w", cluster, err)
	}
	if f.Cluster != cluster {
		return nil, fmt.Errorf("loading the site file of %s: it is of cluster %s", cluster, f.Cluster)
	}
	return f, nil
}

// List names the clusters whose site files were added to home, sorted.
func List(home string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(home, dirName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the site files: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), suffix); ok && clusterName.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func path(home, cluster string) string { return filepath.Join(home, dirName, cluster+suffix) }

func read(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	f, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}
