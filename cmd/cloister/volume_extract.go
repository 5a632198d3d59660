package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"cloister/client/advice"
	"cloister/volume"

	"github.com/spf13/cobra"
)

func newVolumeExtract(a *app) *cobra.Command {
	var o volume.ExtractOptions
	var how opening
	var any *bool
	c := &cobra.Command{
		Use:   "extract V.luks --to DIR",
		Short: "Take the files out of a volume",
		Long: `extract opens a volume that was made here, or that a job which was sealed here
made on a node, with the keys and the parameters in CLOISTER_HOME. From the file's
own header it takes nothing but the UUID, to find them; --uuid goes without that.

In a volume that a job made, every sector that is read is checked, and so is that
no newer state of it was seen before and that the job's node has closed it.

A volume whose keys are not kept here opens with --key-file or --passphrase, if
it has such a keyslot. Then its header is all that there is to go by, and nothing
shows whether the file was changed.

The directory appears when it is complete. Links are made as they are and never
followed; devices are left out.`,
		Example: `  cloister volume extract results.luks --to results/
  cloister volume extract results.luks --to plots/ --only '*.png'
  cloister volume extract old.luks --to old/ --passphrase`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Path = args[0]
			return a.volumeExtract(cmd.Context(), o, how, *any)
		},
	}
	c.Flags().StringVar(&o.To, "to", "", "the `DIR`ectory to make, which is not there yet")
	c.Flags().StringVar(&o.Only, "only", "", "take only what matches this `PATTERN`, for example '*.png'")
	how.flags(c)
	any = anyState(c)
	_ = c.MarkFlagRequired("to")
	return c
}

func (a *app) volumeExtract(ctx context.Context, o volume.ExtractOptions, how opening, any bool) error {
	if _, err := path.Match(o.Only, ""); err != nil {
		return advice.Misuse("for example: --only '*.png'", "--only %q: %w", o.Only, err)
	}
	// One that is there is not replaced, even if it is empty: what was decrypted beside it would have
	// nowhere to go.
	if _, err := os.Lstat(o.To); err == nil {
		return fmt.Errorf("%s: %w", o.To, volume.ErrExists)
	}
	v, err := a.open(ctx, o.Path, how)
	if err != nil {
		return err
	}
	defer v.Keys.Wipe()
	if err := a.current(o.Path, v, any); err != nil {
		return err
	}
	o.Pinned, o.VolumeKey = v.Pinned, v.Keys.VolumeKey
	p := newProgress(a.stderr, "decrypting")
	o.Progress = p.step
	sum, err := volume.Extract(ctx, o)
	p.clear()
	if errors.Is(err, volume.ErrNoMatch) {
		return advice.Refuse("see what is in it: cloister volume ls "+o.Path, "%w", err)
	}
	if err != nil {
		return err
	}
	for _, s := range sum.Skipped {
		a.note("left out, as it is neither file, directory nor link: %q\n", s)
	}
	a.printf("%s: %d files, %s\n", o.To, sum.Files, size(sum.Bytes))
	return nil
}
