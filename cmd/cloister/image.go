package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"cloister/client/advice"
	"cloister/client/jobs"
	"cloister/client/reading"
	"cloister/image"
	"cloister/site"
	"cloister/volume"

	"github.com/spf13/cobra"
)

func newImage(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Look at software images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newImageCheck(a))
	return c
}

type imageFlags struct{ keys, site, job, volume string }

func newImageCheck(a *app) *cobra.Command {
	var f imageFlags
	c := &cobra.Command{
		Use:   "check APP.sif",
		Short: "Say what a node will say of an image",
		Long: `check applies a node's rules to a SIF image: every object in it signed by a key
that the cluster allows, one primary partition, squashfs, for amd64. The keys are
those of the site file, if it has any, else give them with --keys. Without keys it
looks at the image's shape, says who claims to have signed it, and exits 3. How
large an image may be, and under which directories, is for the node's policy.

With --job it also says whether this is the image that a job was sealed with. With
--volume the image is a file in a volume that was made here.`,
		Example: `  cloister image check analysis.sif
  cloister image check analysis.sif --volume software.luks
  cloister image check analysis.sif --keys image-keys.asc
  cloister image check analysis.sif --job analysis.sealed`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.imageCheck(cmd.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.keys, "keys", "", "armored OpenPGP or PEM public keys, a `FILE`, instead of the site file's")
	c.Flags().StringVar(&f.site, "site", "", "the `CLUSTER` whose keys count (default: the only one)")
	c.Flags().StringVar(&f.job, "job", "", "a `JOB.sealed`, or its id, that was sealed here with this image")
	c.Flags().StringVar(&f.volume, "volume", "", "the volume `V.luks` that holds the image: APP.sif is its path from the volume's top")
	c.MarkFlagsMutuallyExclusive("job", "volume")
	return c
}

func (a *app) imageCheck(ctx context.Context, path string, o imageFlags) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	f, length, err := a.openImage(ctx, path, o)
	if err != nil {
		return err
	}
	defer f.Close()
	p := newProgress(a.stderr, "reading the image")
	defer p.clear()
	total := length
	if o.job != "" {
		total *= 2 // for its digest, and for the signatures
	}
	r := reading.At(ctx, f, total, p.step)
	if o.job != "" {
		if err := checkPinned(home, o.job, path, io.NewSectionReader(r, 0, length)); err != nil {
			return err
		}
		p.clear()
		a.printf("%s: the image that %s was sealed with\n", path, o.job)
	}
	keys, err := imageKeys(home, o)
	if err != nil {
		return err
	}
	if keys == nil {
		claimed, err := image.Inspect(r, length)
		if err != nil {
			return advice.Refuse(image.Remedy(err), "image %s: %w", path, err)
		}
		return advice.Refuse("ask the administrator for the cluster's image keys, and give them with --keys FILE",
			"%s says that it is signed by %s; without the cluster's keys nobody can tell whether that is true, or allowed", path, strings.Join(claimed, ", "))
	}
	v, err := image.Verify(r, length, keys)
	p.clear()
	if err != nil {
		return advice.Refuse(image.Remedy(err), "image %s: %w", path, err)
	}
	a.printf("%s: a node will run it\n  signed by    %s\n  objects      %d, all signed\n  file system  %s of squashfs for %s\n",
		path, strings.Join(v.Fingerprints, ", "), v.Objects, size(v.Partition.Size), image.Architecture)
	return nil
}

// An imageFile is one by itself or in a volume.
type imageFile interface {
	io.ReaderAt
	io.Closer
}

func (a *app) openImage(ctx context.Context, path string, o imageFlags) (imageFile, int64, error) {
	if o.volume != "" {
		v, err := a.open(ctx, o.volume, opening{})
		if err != nil {
			return nil, 0, err
		}
		defer v.Keys.Wipe()
		f, err := volume.OpenFile(o.volume, v.Pinned, v.Keys.VolumeKey, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, advice.Refuse("see what is in it with cloister volume ls "+o.volume, "%w", err)
		}
		if err != nil {
			return nil, 0, err
		}
		return f, f.Size(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("opening the image: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = advice.Refuse("give a SIF file", "%s is no image", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// checkPinned compares the image with the one that a job was sealed with.
func checkPinned(home, job, path string, f io.Reader) error {
	r, err := findRecord(home, job)
	if errors.Is(err, jobs.ErrUnknown) {
		return advice.Refuse("check it on the machine, or with the CLOISTER_HOME, that sealed the job", "%s: %w", job, err)
	}
	if err != nil {
		return err
	}
	if r.Image == nil {
		return advice.Refuse("add a line #CLOISTER image=FILE.sif and seal the script again", "%s was sealed without an image", job)
	}
	if r.Image.SHA256 == "" {
		return advice.Refuse("check it with --volume instead of --job", "%s runs the image %s in a volume, pinned by the volume's root hash", job, r.Image.Path)
	}
	sum, err := image.Digest(f)
	if err != nil {
		return err
	}
	if sum != r.Image.SHA256 {
		return advice.Refuse("put back the image that the job was sealed with, or seal the script again",
			"image %s is not the one that was sealed: its SHA-256 differs", path)
	}
	return nil
}

// imageKeys takes the keys of the command line, else those of the site file. It
// returns nil if neither has any.
func imageKeys(home string, o imageFlags) (*image.Keys, error) {
	if o.keys != "" {
		b, err := readSmall(o.keys, image.MaxKeyring)
		if err != nil {
			return nil, fmt.Errorf("reading the image keys: %w", err)
		}
		keys, err := image.ParseKeys(b)
		if err != nil {
			return nil, advice.Refuse("export them with gpg --armor --export, or openssl pkey -pubout", "%s: %w", o.keys, err)
		}
		return keys, nil
	}
	s, err := site.Load(home, o.site)
	if errors.Is(err, site.ErrUnknown) && o.site == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.ImageKeys()
}
