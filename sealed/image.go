package sealed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
)

// ImageVolume returns the index of the volume that holds the image, and the
// image's path from that volume's root; -1 if the image is a file by itself.
func (m *Manifest) ImageVolume() (index int, inside string) {
	if m.Image == nil {
		return -1, ""
	}
	for i, v := range m.Volumes {
		if inside, ok := InVolume(m.Image.Path, v.Mount); ok {
			return i, inside
		}
	}
	return -1, ""
}

// InVolume reports whether an image's path lies below a mount point, and where.
func InVolume(image, mount string) (inside string, ok bool) {
	return strings.CutPrefix(image, strings.TrimSuffix(mount, "/")+"/")
}

// ImagePlace is the file in the job view where the job finds its image; cwd is
// its working directory. A relative path is below that; an image in a volume has
// its own name there unless the manifest says another.
func (m *Manifest) ImagePlace(cwd string) string {
	place := m.Image.Mount
	if place == "" {
		place = m.Image.Path
		if i, _ := m.ImageVolume(); i >= 0 {
			place = path.Base(place)
		}
	}
	if !path.IsAbs(place) {
		place = path.Join(cwd, place)
	}
	return place
}

// CheckImagePlace wants where an image appears: a path below the job's working
// directory, or a mount point.
func CheckImagePlace(place string) error {
	if path.IsAbs(place) {
		return CheckMount(place)
	}
	return CheckPath(place)
}

func (m *Manifest) checkImage() error {
	if m.Image == nil {
		return nil
	}
	if err := m.Image.validate(); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	i, _ := m.ImageVolume()
	switch {
	case i >= 0 && m.Volumes[i].Mode != ReadOnly:
		return errors.New("image: it lies in a volume that the job can write; put it into one for reading")
	case i >= 0 && (m.Image.SHA256 != "" || m.Image.Size != 0):
		return errors.New("image: it lies in a volume, whose root hash pins it, and has a digest or a size of its own")
	case i < 0:
		return m.Image.checkDigest()
	}
	return nil
}

func (im *Image) validate() error {
	if err := CheckPath(im.Path); err != nil {
		return err
	}
	if im.Mount == "" {
		return nil
	}
	return CheckImagePlace(im.Mount)
}

func (im *Image) checkDigest() error {
	if b, err := hex.DecodeString(im.SHA256); err != nil || len(b) != 32 || strings.ToLower(im.SHA256) != im.SHA256 {
		return fmt.Errorf("image: %q is no SHA-256 digest in lower-case hexadecimal", im.SHA256)
	}
	if im.Size <= 0 {
		return fmt.Errorf("image: size %d", im.Size)
	}
	return nil
}
