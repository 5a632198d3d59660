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
	"cloister/image"
	"cloister/sealed"
	"cloister/volume"
)

// maxImage bounds an image, in bytes: far above any real one.
const maxImage = 1 << 40

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
			Path: d.Path, Mount: d.Mount, Mode: d.Mode, Create: d.Create, Size: d.Size, Label: v.Label, Pinned: v.Pinned,
		})
	}
	return nil
}

// plan makes the keys of a volume that the node will make. The path's last
// name serves as its label.
func (s *sealing) plan(d directives.Volume) (keystore.Volume, error) {
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, d.Size)
	if err != nil {
		return keystore.Volume{}, fmt.Errorf("line %d: %w", d.Line, err)
	}
	return keystore.Volume{Label: label(path.Base(d.Path)), Pinned: pinned, Keys: keys}, nil
}

// label is the name of a volume's file without ".luks".
func label(name string) string { return sealed.CutLabel(strings.TrimSuffix(name, ".luks")) }

// find looks up the keys of a volume: by the UUID in the file's header if the
// file is on this machine, else by the file's name.
func (s *sealing) find(d directives.Volume) (keystore.Volume, error) {
	file, ok := s.local(d.Path)
	if !ok {
		return s.findByName(d)
	}
	h, err := volume.Info(file)
	if err != nil {
		return keystore.Volume{}, advice.Refuse("make it anew with cloister volume create", "line %d: %s is no volume: %w", d.Line, file, err)
	}
	v, err := s.store.Get(h.UUID)
	if errors.Is(err, keystore.ErrUnknown) {
		return v, advice.Refuse("seal on the machine, or with the CLOISTER_HOME, that made the volume", "line %d: volume %s: %w", d.Line, file, err)
	}
	return v, err
}

func (s *sealing) findByName(d directives.Volume) (keystore.Volume, error) {
	found, err := s.store.Named(path.Base(d.Path))
	if err != nil {
		return keystore.Volume{}, err
	}
	if len(found) == 1 {
		return found[0], nil
	}
	for _, v := range found {
		v.Keys.Wipe()
	}
	next := fmt.Sprintf("say where it is on this machine: cloister seal --local %s=FILE", d.Path)
	if len(found) == 0 {
		return keystore.Volume{}, advice.Refuse(next, "line %d: there is no file %s here, and no volume of that name was made here", d.Line, d.Path)
	}
	return keystore.Volume{}, advice.Refuse(next, "line %d: there is no file %s here, and %d volumes of that name were made here", d.Line, d.Path, len(found))
}

// local finds a file of the script's on this machine: as the command line
// says, else at its path, else beside the script.
func (s *sealing) local(p string) (string, bool) {
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

func (s *sealing) image() error {
	d := s.script.Image
	if d == nil {
		return nil
	}
	file, ok := s.local(d.Path)
	if !ok {
		return advice.Refuse(fmt.Sprintf("say where it is on this machine: cloister seal --local %s=FILE", d.Path), "line %d: there is no image %s here", d.Line, d.Path)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("line %d: opening the image: %w", d.Line, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("line %d: opening the image: %w", d.Line, err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxImage {
		return advice.Refuse("give a SIF file", "line %d: %s is no image", d.Line, file)
	}
	counted := &counter{r: io.LimitReader(f, st.Size())}
	digest, err := image.Digest(counted)
	if err != nil {
		return fmt.Errorf("line %d: reading the image %s: %w", d.Line, file, err)
	}
	if counted.n != st.Size() {
		return fmt.Errorf("line %d: the image %s changed while it was read", d.Line, file)
	}
	s.m.Image = &sealed.Image{Path: d.Path, SHA256: digest, Size: st.Size(), Mount: d.Mount}
	return s.judge(f, st.Size(), file)
}

// judge warns of an image that no node will run, as far as can be told: with the
// keys of the site file, else by its shape.
func (s *sealing) judge(f io.ReaderAt, size int64, name string) error {
	keys, err := s.o.Site.ImageKeys()
	if err != nil {
		return err
	}
	if keys != nil {
		_, err = image.Verify(f, size, keys)
	} else {
		_, err = image.Inspect(f, size)
	}
	if err != nil {
		s.warnings = append(s.warnings, fmt.Sprintf("Nodes will refuse the image %s: %v. See cloister image check.", name, err))
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
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
