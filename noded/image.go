package noded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cloister/image"
	"cloister/mutant"
	"cloister/noded/helper"
	"cloister/noded/imagecheck"
	"cloister/policy"

	"golang.org/x/sys/unix"
)

// takeImage copies the image into memory that only the node can write, then
// verifies the copy: the file on the shared file system could change between
// the check and its use.
func (d *Daemon) takeImage(dir string, l *live, a *admission) error {
	if a.image == nil {
		return nil // none, or in a volume: checkImage
	}
	m := a.manifest.Image
	if m.Size > int64(d.policy.Images.MaxSize) {
		return refusal(fmt.Sprintf("image %s has %d bytes, this node's policy allows %d", m.Path, m.Size, d.policy.Images.MaxSize), nextAdministrator)
	}
	keys, err := d.imageKeys()
	if err != nil {
		return err
	}
	// Room for the file system's own pages besides the image itself.
	const slack = 1 << 20
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("making room for the image: %w", err)
	}
	if free := available(memory); m.Size+slack > free {
		return refusal(fmt.Sprintf("image %s has %d bytes, and this node has %d bytes of memory free to copy it to", m.Path, m.Size, free),
			"put the image into a volume, which is not copied: cloister volume create --from DIR")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making room for the image: %w", err)
	}
	if err := unix.Mount("cloister-image", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=0700,size=%d", m.Size+slack)); err != nil {
		return fmt.Errorf("making room for the image: %w", err)
	}
	path := filepath.Join(dir, "image.sif")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("copying the image: %w", err)
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(a.image, m.Size+1))
	if err != nil {
		return fmt.Errorf("copying the image: %w", err)
	}
	if n != m.Size {
		return refusal(fmt.Sprintf("image %s is not the one that was sealed: its size differs", m.Path), nextImage)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	sum, err := image.Digest(f)
	if err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	if sum != m.SHA256 && !mutant.Removed(mutant.ImageDigest) {
		return refusal(fmt.Sprintf("image %s is not the one that was sealed: its SHA-256 differs", m.Path), nextImage)
	}
	if _, err := image.Verify(f, m.Size, keys); err != nil && !mutant.Removed(mutant.ImageSignature) {
		return refusal(fmt.Sprintf("image %s: %v", m.Path, err), image.Remedy(err)+", and seal the script again")
	}
	l.imageFile = path
	return nil
}

// available is MemAvailable of proc_meminfo(5), in bytes; 0 if it does not say.
func available(meminfo []byte) int64 {
	for line := range strings.Lines(string(meminfo)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" && f[2] == "kB" {
			if n, err := strconv.ParseInt(f[1], 10, 52); err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// checkImage looks at an image in a volume, which nobody can change any more.
func (d *Daemon) checkImage(ctx context.Context, l *live, a *admission) error {
	i, inside := a.manifest.ImageVolume()
	if i < 0 {
		return nil
	}
	keys, err := os.Open(d.policy.Images.KeysFile)
	if err != nil {
		return fmt.Errorf("reading the keys that images must be signed with: %w", err)
	}
	defer keys.Close()
	err = imagecheck.Check(ctx, a.rights(), imagecheck.Image{
		Volume: l.opened[i].Mount, Path: inside, Keys: keys,
		Whole: d.policy.Images.InVolumes == policy.ImagesVerified, Max: int64(d.policy.Images.MaxSize),
	})
	var refused imagecheck.Refusal
	switch {
	case errors.As(err, &refused) && mutant.Removed(mutant.ImageSignature):
		return nil
	case errors.As(err, &refused):
		return refusal(fmt.Sprintf("image %s: %v", a.manifest.Image.Path, refused), "cloister image check --volume says on your machine what is wrong; make the volume anew, and seal the script again")
	case errors.Is(err, helper.ErrDeadline):
		return refusal(fmt.Sprintf("image %s could not be read in time", a.manifest.Image.Path), "submit it again; if it is large, ask the administrator for in_volumes = \"pinned\"")
	}
	return err
}

const nextImage = "put back the image that the job was sealed with, or seal the script again"

func (d *Daemon) imageKeys() (*image.Keys, error) {
	f, err := os.Open(d.policy.Images.KeysFile)
	if err != nil {
		return nil, fmt.Errorf("reading the keys that images must be signed with: %w", err)
	}
	defer f.Close()
	return image.ReadKeys(f)
}

// removeScratch gives the image's memory back. It is safe to call twice, and
// when nothing was made.
func removeScratch(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing the image's copy: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the image's copy: %w", err)
	}
	return nil
}
