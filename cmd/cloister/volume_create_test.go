package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/client/keystore"
	"cloister/volume"
)

// TestKeysAreRemovedOnlyIfTheirVolumeIsCertainlyNotThere has the making of a
// volume fail as or after its file gets its name, and looks for the keys.
func TestKeysAreRemovedOnlyIfTheirVolumeIsCertainlyNotThere(t *testing.T) {
	failed := errors.New("the server went away")
	for name, c := range map[string]struct {
		named bool // the file had its name when it failed
		after func(t *testing.T, path string)
		kept  bool
	}{
		"no volume":   {},
		"the volume":  {named: true, kept: true},
		"another one": {after: func(t *testing.T, path string) { makeVolume(t, path, nil) }},
		"a server that does not answer": {named: true, kept: true, after: func(t *testing.T, path string) {
			dir := filepath.Dir(path)
			check(t, os.Rename(dir, dir+".away"))
			check(t, os.Symlink(dir, dir)) // any look at what is in it fails
		}},
		"a disk that was unmounted": {named: true, kept: true, after: func(t *testing.T, path string) {
			dir := filepath.Dir(path)
			check(t, os.Rename(dir, dir+".away"))
			check(t, os.Mkdir(dir, 0o700)) // what it was mounted on
		}},
		"a file that cannot be read": {named: true, kept: true, after: func(t *testing.T, path string) {
			check(t, os.Rename(path, path+".away"))
			check(t, os.Symlink(path, path))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("CLOISTER_HOME", home)
			dir := filepath.Join(t.TempDir(), "disk")
			check(t, os.Mkdir(dir, 0o700))
			path := filepath.Join(dir, "work.luks")
			var said bytes.Buffer
			a := &app{stderr: &said}
			o := volume.CreateOptions{Path: path}
			uuid := ""
			_, err := a.keepAndMake("work.luks", "", "copying", &o, func() (volume.Pinned, volume.Keys, error) {
				uuid = makeVolume(t, path, o.Keep)
				if !c.named {
					check(t, os.Remove(path))
				}
				if c.after != nil {
					c.after(t, path)
				}
				return volume.Pinned{}, volume.Keys{}, failed
			})
			if !errors.Is(err, failed) {
				t.Fatal(err)
			}
			v, err := keystore.In(home).Get(uuid)
			if c.kept && err != nil {
				t.Errorf("its keys: %v", err)
			}
			if !c.kept && !errors.Is(err, keystore.ErrUnknown) {
				t.Errorf("its keys are kept: %v", err)
			}
			if where := filepath.Join(home, "volumes", uuid+".json"); strings.Contains(said.String(), where) != c.kept {
				t.Errorf("said %q", said.String())
			}
			v.Keys.Wipe()
		})
	}
}

func makeVolume(t *testing.T, path string, keep func(volume.Pinned, volume.Keys) error) (uuid string) {
	t.Helper()
	p, keys, err := volume.Create(t.Context(), volume.CreateOptions{Path: path, From: t.TempDir(), Keep: keep, Rand: rand.Reader})
	check(t, err)
	keys.Wipe()
	return p.UUID
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
