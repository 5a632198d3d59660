package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func orHere(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func mustNotExist(path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return ErrExists
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// mustLieOutside refuses a volume inside the directory that it is made of.
func mustLieOutside(path, from string) error {
	dir, err := filepath.EvalSymlinks(orHere(filepath.Dir(path)))
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if from, err = filepath.EvalSymlinks(from); err != nil {
		return err
	}
	if from, err = filepath.Abs(from); err != nil {
		return err
	}
	if rel, err := filepath.Rel(from, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return fmt.Errorf("it would lie inside %s, the directory that it is made from", from)
	}
	return nil
}

// moveInPlace gives the finished file its name. A link fails where a rename
// would silently replace a file that appeared in the meantime.
func moveInPlace(temp, path string, force bool) error {
	if !force {
		err := os.Link(temp, path)
		if err == nil {
			return os.Remove(temp)
		}
		if errors.Is(err, os.ErrExist) {
			return ErrExists
		}
		// A file system without hard links: check, then rename.
		if err := mustNotExist(path); err != nil {
			return err
		}
	}
	return os.Rename(temp, path)
}
