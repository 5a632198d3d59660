package main

import (
	"context"
	"crypto/rand"
	"errors"

	"cloister/client/advice"
	"cloister/volume"
	"cloister/volume/ext4"

	"github.com/spf13/cobra"
)

func newVolumeGrow(a *app) *cobra.Command {
	var free, total string
	var hide bool
	c := &cobra.Command{
		Use:   "grow V.luks --free SIZE",
		Short: "Give a volume for writing more room",
		Long: `grow makes a volume for writing anew beside the old one, with the same contents and
more room, and puts it in the old one's place when it is complete. There must be
space for both. It has a new key and UUID: seal jobs that use it again; a
passphrase must be set again with cloister volume passwd.`,
		Example: `  cloister volume grow work.luks --free 50G
  cloister volume grow work.luks --size 200G`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&free, "free", "", "room for new files (`SIZE`, for example 50G)")
	c.Flags().StringVar(&total, "size", "", "the `SIZE` in all")
	c.Flags().BoolVar(&hide, "hide-free-space", false, "fill free space with noise")
	c.MarkFlagsMutuallyExclusive("free", "size")
	c.MarkFlagsOneRequired("free", "size")
	c.RunE = func(cmd *cobra.Command, args []string) (err error) {
		o := volume.GrowOptions{Path: args[0], Create: volume.CreateOptions{HideFreeSpace: hide, Rand: rand.Reader}}
		if o.Create.Free, err = parseSize("free", free); err != nil {
			return err
		}
		if o.Create.Size, err = parseSize("size", total); err != nil {
			return err
		}
		return a.volumeGrow(cmd.Context(), o)
	}
	return c
}

func (a *app) volumeGrow(ctx context.Context, o volume.GrowOptions) error {
	v, err := a.open(ctx, o.Path, opening{})
	if err != nil {
		return err
	}
	defer v.Keys.Wipe()
	if v.Pinned.Verity != nil {
		return advice.Refuse("extract it, and make a new one with --free", "%s is a volume for reading: nothing can be added to it", o.Path)
	}
	if o.Create.Size > 0 && o.Create.Size <= v.Pinned.PayloadSize {
		return advice.Refuse("give a larger --size", "%s has %s already", o.Path, size(v.Pinned.PayloadSize))
	}
	o.Create.Path = o.Path
	o.Pinned, o.VolumeKey, o.Create.Label = v.Pinned, v.Keys.VolumeKey, v.Label
	pinned, err := a.keepAndMake(v.Name, v.Label, "copying", &o.Create, func() (volume.Pinned, volume.Keys, error) {
		return volume.Grow(ctx, o)
	})
	if errors.Is(err, ext4.ErrTooSmall) {
		return advice.Refuse("give a larger --size", "%w", err)
	}
	if err != nil {
		return err
	}
	a.printf("%s %s %s\n", o.Path, size(pinned.End()), pinned.UUID)
	a.note("It has a new key: seal jobs that use it again.\n")
	return nil
}
