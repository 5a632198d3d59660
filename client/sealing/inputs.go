package sealing

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/client/keystore"
	"cloister/sealed"
	"cloister/volume"
	"cloister/volume/luks2"
)

func (s *sealing) volumes() error {
	for _, d := range s.script.Volumes {
		var v keystore.Volume
		var err error
		if d.Create {
			v, err = s.plan(d)
		} else {
			v, err = s.find(d)
		}
		if err != nil {
			return err
		}
		entry := sealed.VolumeSecret{VolumeKey: v.Keys.VolumeKey}
		if d.Create {
			entry.KeyslotKey = v.Keys.KeyslotKey
		} else {
			v.Keys.KeyslotKey.Wipe()
		}
		s.secrets.Volumes = append(s.secrets.Volumes, entry)
		s.m.Volumes = append(s.m.Volumes, sealed.Volume{
			Path: d.Path, Mount: d.Mount, Mode: d.Mode, Create: d.Create, Size: d.Size, Label: v.Label, Pinned: v.Pinned, State: v.Seen,
		})
	}
	return nil
}

// plan makes the keys of a volume that the node will make. The path's last
// name serves as its label.
func (s *sealing) plan(d directives.Volume) (keystore.Volume, error) {
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, d.Size, d.Plain)
	if err != nil {
		return keystore.Volume{}, fmt.Errorf("line %d: %w", d.Line, err)
	}
	if d.Plain {
		s.warnings = append(s.warnings, fmt.Sprintf("Line %d: integrity=none: whoever can write the file %s can alter what the job reads and leaves there, and nobody notices.", d.Line, d.Path))
	}
	return keystore.Volume{Label: label(path.Base(d.Path)), Pinned: pinned, Keys: keys}, nil
}

// label is the name of a volume's file without ".luks".
func label(name string) string { return sealed.CutLabel(strings.TrimSuffix(name, ".luks")) }

// find looks up the keys of a volume: by the UUID that the command line gives or
// that is in the file's header, if the file is on this machine, else by the
// file's name.
func (s *sealing) find(d directives.Volume) (keystore.Volume, error) {
	name := d.Path
	uuid, ok := s.uuid(d.Path)
	if !ok {
		file, ok := s.local(d.Path)
		if !ok {
			return s.findByName(d)
		}
		h, err := volume.Info(file)
		if err != nil {
			return keystore.Volume{}, advice.Refuse("make it anew with cloister volume create", "line %d: %s is no volume: %w", d.Line, file, err)
		}
		name, uuid = file, h.UUID
	}
	v, err := s.store.Get(uuid)
	if errors.Is(err, keystore.ErrUnknown) {
		return v, advice.Refuse("seal on the machine, or with the CLOISTER_HOME, that made the volume", "line %d: volume %s: %w", d.Line, name, err)
	}
	return v, err
}

// mostListed bounds how many volumes a refusal names.
const mostListed = 8

func (s *sealing) findByName(d directives.Volume) (keystore.Volume, error) {
	found, err := s.store.Named(path.Base(d.Path))
	if err != nil {
		return keystore.Volume{}, err
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var list []string
	for i, v := range found {
		v.Keys.Wipe()
		if i < mostListed {
			list = append(list, v.Pinned.UUID+" of "+v.Created.Format("2006-01-02 15:04 MST"))
		}
	}
	if len(found) == 0 {
		return keystore.Volume{}, advice.Refuse(sayWhere(d.Path), "line %d: there is no file %s here, and no volume of that name was made here", d.Line, d.Path)
	}
	if more := len(found) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("%d older ones", more))
	}
	return keystore.Volume{}, advice.Refuse(
		fmt.Sprintf("say which: cloister seal --local %s=UUID; cryptsetup luksUUID FILE tells it where the file is, or cloister volume info FILE", d.Path),
		"line %d: there is no file %s here, and %d volumes of that name were made here: %s", d.Line, d.Path, len(found), strings.Join(list, ", "))
}

// uuid is that of a volume of the script's, if the command line has it in place
// of a file.
func (s *sealing) uuid(p string) (string, bool) {
	uuid := s.o.Local[p]
	return uuid, luks2.ValidUUID(uuid) == nil
}

// local finds a file of the script's on this machine: as the command line
// says, else at its path, else beside the script.
func (s *sealing) local(p string) (string, bool) {
	if _, ok := s.uuid(p); ok {
		return "", false
	}
	if file, ok := s.o.Local[p]; ok {
		return file, true
	}
	candidates := []string{filepath.FromSlash(p)}
	if !path.IsAbs(p) {
		candidates = append(candidates, filepath.Join(filepath.Dir(s.o.Script), filepath.FromSlash(p)))
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); !errors.Is(err, fs.ErrNotExist) {
			return c, true
		}
	}
	return "", false
}

// readFile reads a regular file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, advice.Refuse("give the path of a file", "%s is not a file", name)
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}
