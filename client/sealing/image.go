package sealing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/client/reading"
	"cloister/image"
	"cloister/sealed"
	"cloister/volume"
)

// maxImage bounds an image, in bytes: far above any real one.
const maxImage = 1 << 40

func (s *sealing) image(ctx context.Context) error {
	d := s.script.Image
	if d == nil {
		return nil
	}
	if v := s.script.ImageVolume(); v != nil {
		return s.imageInVolume(ctx, d, v)
	}
	file, ok := s.local(d.Path)
	if !ok {
		return advice.Refuse(sayWhere(d.Path), "line %d: there is no image %s here", d.Line, d.Path)
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
	keys, err := s.o.Site.ImageKeys()
	if err != nil {
		return err
	}
	total := st.Size()
	if keys != nil {
		total *= 2 // for its digest, and for the signatures
	}
	r := reading.At(ctx, f, total, s.o.Progress)
	counted := &counter{r: io.NewSectionReader(r, 0, st.Size())}
	digest, err := image.Digest(counted)
	if err != nil {
		return fmt.Errorf("line %d: reading the image %s: %w", d.Line, file, err)
	}
	if counted.n != st.Size() {
		return fmt.Errorf("line %d: the image %s changed while it was read", d.Line, file)
	}
	s.m.Image = &sealed.Image{Path: d.Path, SHA256: digest, Size: st.Size(), Mount: d.Mount}
	if err := judge(r, st.Size(), keys); err != nil {
		s.warnings = append(s.warnings, fmt.Sprintf("Nodes will refuse the image %s: %v. See cloister image check.", file, err))
	}
	return nil
}

// imageInVolume vouches for an image that nodes may run unread: with the site's
// keys, every byte of it is checked here, through the volume's hash tree.
func (s *sealing) imageInVolume(ctx context.Context, d *directives.Image, v *directives.Volume) error {
	file, ok := s.local(v.Path)
	if !ok {
		return advice.Refuse(sayWhere(v.Path), "line %d: the image lies in the volume %s, which is not here, so nobody can check it", d.Line, v.Path)
	}
	s.m.Image = &sealed.Image{Path: d.Path, Mount: d.Mount}
	i, inside := s.m.ImageVolume()
	f, err := volume.OpenFile(file, s.m.Volumes[i].Pinned, s.secrets.Volumes[i].VolumeKey, inside)
	if errors.Is(err, fs.ErrNotExist) {
		return advice.Refuse("see what is in it with cloister volume ls", "line %d: %w", d.Line, err)
	}
	if err != nil {
		return fmt.Errorf("line %d: %w", d.Line, err)
	}
	defer f.Close()
	keys, err := s.o.Site.ImageKeys()
	if err != nil {
		return err
	}
	if err := judge(reading.At(ctx, f, f.Size(), s.o.Progress), f.Size(), keys); err != nil {
		return advice.Refuse(image.Remedy(err)+", and make the volume anew", "line %d: image %s: %w", d.Line, d.Path, err)
	}
	if keys == nil {
		s.warnings = append(s.warnings, fmt.Sprintf("Nobody may check the signatures of the image %s: the site file has no image keys. See cloister image check --keys.", d.Path))
	}
	return nil
}

// judge says what a node would: of the whole image with keys, without of its
// shape.
func judge(f io.ReaderAt, size int64, keys *image.Keys) error {
	if keys == nil {
		_, err := image.Inspect(f, size)
		return err
	}
	_, err := image.Verify(f, size, keys)
	return err
}

func sayWhere(path string) string {
	return fmt.Sprintf("say where it is on this machine: cloister seal --local %s=FILE", path)
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
