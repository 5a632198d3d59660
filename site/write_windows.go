package site

import (
	"errors"
	"os"
	"path/filepath"
)

// writeFile renames a complete temporary file into place: renameio does not
// support Windows, whose rename (MoveFileEx) replaces, if not atomically.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".site-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
