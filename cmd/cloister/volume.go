package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/client/keystore"
	"cloister/volume"

	"github.com/spf13/cobra"
)

func newVolume(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "volume",
		Short: "Make, open and describe encrypted volumes",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newVolumeCreate(a), newVolumeExtract(a), newVolumeInfo(a))
	return c
}

func newVolumeCreate(a *app) *cobra.Command {
	var from, label, free string
	var force bool
	c := &cobra.Command{
		Use:   "create V.luks --from DIR",
		Short: "Turn a directory into an encrypted volume",
		Long: `create writes a LUKS2 file that holds the contents of a directory, and keeps its
keys in CLOISTER_HOME. The volume is for reading: a job notices any change to it.
With --free it is for writing, with that much room, and no job can notice that
an old state of it was put back.`,
		Example: "  cloister volume create patients.luks --from patients/",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := volume.CreateOptions{Path: args[0], From: from, Label: label, Force: force, Rand: rand.Reader}
			if free != "" {
				n, err := directives.ParseSize(free)
				if err != nil {
					return advice.Misuse("for example: --free 1G", "--free: %w", err)
				}
				o.Writable, o.Free = true, n
			}
			return a.volumeCreate(cmd.Context(), o)
		},
	}
	c.Flags().StringVar(&from, "from", "", "the `DIR`ectory whose contents go into the volume")
	c.Flags().StringVar(&label, "label", "", "a label, at most 47 bytes, which everybody can read")
	c.Flags().StringVar(&free, "free", "", "make a volume for writing with this much room, for example 1G")
	c.Flags().BoolVar(&force, "force", false, "replace an existing file")
	_ = c.MarkFlagRequired("from")
	return c
}

func (a *app) volumeCreate(ctx context.Context, o volume.CreateOptions) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	store := keystore.In(home)
	if err := store.Prepare(); err != nil {
		return err
	}
	p := newProgress(a.stderr, "encrypting")
	o.Progress = p.step
	pinned, keys, err := volume.Create(ctx, o)
	p.clear()
	if errors.Is(err, volume.ErrExists) {
		return advice.Refuse("choose another name, or replace it with --force", "%w", err)
	}
	if err != nil {
		return err
	}
	defer keys.Wipe()
	err = store.Put(keystore.Volume{
		Name: filepath.Base(o.Path), Label: o.Label, Created: time.Now(), Pinned: pinned, Keys: keys,
	})
	if err != nil {
		os.Remove(o.Path) // nobody could ever open it
		return err
	}
	a.printf("%s %s %s\n", o.Path, size(pinned.End()), pinned.UUID)
	return nil
}

func newVolumeExtract(a *app) *cobra.Command {
	var to, only, uuid string
	c := &cobra.Command{
		Use:   "extract V.luks --to DIR",
		Short: "Take the files out of a volume",
		Long: `extract opens a volume that was made here, or that a job which was sealed here
made on a node, with the keys and the parameters in CLOISTER_HOME. From the file's
own header it takes nothing but the UUID, to find them; --uuid goes without that.`,
		Example: "  cloister volume extract results.luks --to results/",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.volumeExtract(cmd.Context(), volume.ExtractOptions{Path: args[0], To: to, Only: only}, uuid)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the `DIR`ectory to make")
	c.Flags().StringVar(&only, "only", "", "take only what matches this `PATTERN`, for example '*.png'")
	c.Flags().StringVar(&uuid, "uuid", "", "the volume's `UUID`, if its header cannot be read")
	_ = c.MarkFlagRequired("to")
	return c
}

func (a *app) volumeExtract(ctx context.Context, o volume.ExtractOptions, uuid string) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	if uuid == "" {
		h, err := volume.Info(o.Path)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return err
			}
			return advice.Refuse("if the header was damaged, give the volume's UUID with --uuid", "%w", err)
		}
		uuid = h.UUID
	}
	v, err := keystore.In(home).Get(uuid)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Path, err)
	}
	defer v.Keys.Wipe()
	o.Pinned, o.VolumeKey = v.Pinned, v.Keys.VolumeKey
	p := newProgress(a.stderr, "decrypting")
	o.Progress = p.step
	sum, err := volume.Extract(ctx, o)
	p.clear()
	if err != nil {
		return err
	}
	for _, s := range sum.Skipped {
		a.note("left out, as it is neither file, directory nor link: %q\n", s)
	}
	a.printf("%s: %d files, %s\n", o.To, sum.Files, size(sum.Bytes))
	return nil
}

func newVolumeInfo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "info V.luks",
		Short: "Show what a volume's header says, and whether its keys are here",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.volumeInfo(args[0]) },
	}
}

func (a *app) volumeInfo(path string) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	h, err := volume.Info(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return err
		}
		return advice.Refuse("give a file that cloister volume create or a job made", "%w", err)
	}
	a.printf("uuid       %s\nlabel      %s\ncipher     %s, sectors of %d bytes\npayload    %s at %d\nkeyslots   %d\n",
		h.UUID, printable(h.Label), h.Cipher, h.SectorSize, size(h.PayloadSize), h.PayloadOffset, len(h.Keyslots))
	v, err := keystore.In(home).Get(h.UUID)
	switch {
	case errors.Is(err, keystore.ErrUnknown):
		a.printf("keys       not on this machine\n")
	case err != nil:
		return err
	default:
		v.Keys.Wipe()
		a.printf("keys       on this machine, since %s\n", v.Created.Format(time.RFC3339))
		if v.Job != "" {
			a.printf("made by    job %s\n", v.Job)
		}
		use := "writing"
		if v.Pinned.Verity != nil {
			use = "reading: a change is noticed"
		}
		a.printf("for        %s\n", use)
	}
	a.note("Nothing in a header is authenticated: cloister opens volumes with what it keeps itself.\n")
	return nil
}

func printable(s string) string {
	if s == "" {
		return "-"
	}
	return fmt.Sprintf("%q", s)
}
