package server

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// A backup is a tar archive of what a KMS cannot be made again without: its
// CA, which site files pin, its users, their passwords and roles, as they are
// stored, so under the state key. It leaves the database out, and must: a token that
// was redeemed after the backup would work again. So jobs in the queue have to
// be sealed anew after a restore, and users log in anew.

// backupName is what may be in a backup.
var backupName = regexp.MustCompile(`^(config\.json|ca\.pem|ca-key\.pem|users/[0-9a-f]{64}\.json|(passwords|roles)/[0-9a-f]{2,76}\.json)$`)

// maxBackup is how many files a backup may have.
const maxBackup = 100_000

// Backup writes one. The server may run.
func (s State) Backup(w io.Writer) error {
	fail := func(err error) error { return fmt.Errorf("backing up the KMS in %s: %w", s.Dir, err) }
	if _, _, err := s.open(); err != nil {
		return fail(err)
	}
	t := tar.NewWriter(w)
	// The configuration comes last: it marks a directory as complete.
	names := []string{caKeyFile, caCertFile}
	for _, dir := range []string{usersDir, passwordsDir, rolesDir} {
		list, err := os.ReadDir(filepath.Join(s.Dir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
		for _, e := range list {
			if name := dir + "/" + e.Name(); backupName.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	for _, name := range append(names, configFile) {
		b, err := readLimited(filepath.Join(s.Dir, name), maxConfig)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(name) != "." {
			continue // a user who was just removed
		}
		if err != nil {
			return fail(err)
		}
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return fail(err)
		}
		if _, err := t.Write(b); err != nil {
			return fail(err)
		}
	}
	if err := t.Close(); err != nil {
		return fail(err)
	}
	return nil
}

// Restore makes a state directory of a backup, with no token in it. It opens
// everything with the key before it says that all is well.
func (s State) Restore(r io.Reader) error {
	fail := func(err error) error { return fmt.Errorf("restoring a KMS in %s: %w", s.Dir, err) }
	files, err := readBackup(r)
	if err != nil {
		return fail(err)
	}
	if err := s.makeDirs(); err != nil {
		return fail(err)
	}
	names := make([]string, 0, len(files))
	for name := range files {
		if name != configFile {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range append(names, configFile) {
		mode := os.FileMode(0o600)
		if name == caCertFile {
			mode = 0o644
		}
		if err := writeOwned(s.Dir, name, files[name], mode); err != nil {
			return fail(err)
		}
	}
	c, key, err := s.open()
	if err == nil {
		_, err = loadIssuer(s.Dir, key, c.Addresses, time.Now)
	}
	if err == nil {
		_, err = s.Users()
	}
	if err == nil {
		_, err = s.Roles()
	}
	if err == nil {
		err = s.makeStore(key)
	}
	if err != nil {
		// Else the next try with the right key would find a KMS here.
		return fail(errors.Join(err, removeIn(s.Dir, configFile), removeIn(s.Dir, caKeyFile)))
	}
	return nil
}

func readBackup(r io.Reader) (map[string][]byte, error) {
	files := make(map[string][]byte)
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.New("not a backup of a KMS: not a whole tar archive")
		}
		switch {
		case h.Typeflag != tar.TypeReg || !backupName.MatchString(h.Name):
			return nil, fmt.Errorf("not a backup of a KMS: %.100q is in it", h.Name)
		case h.Size > maxConfig || len(files) >= maxBackup:
			return nil, errors.New("not a backup of a KMS: too large")
		case files[h.Name] != nil:
			return nil, fmt.Errorf("not a backup of a KMS: %s is there twice", h.Name)
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return nil, errors.New("not a backup of a KMS: cut off")
		}
		files[h.Name] = append([]byte{}, b...)
	}
	for _, name := range []string{configFile, caCertFile, caKeyFile} {
		if len(files[name]) == 0 {
			return nil, fmt.Errorf("not a backup of a KMS: no %s in it", name)
		}
	}
	return files, nil
}
