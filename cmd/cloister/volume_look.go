package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloister/client/keystore"
	"cloister/volume"

	"github.com/spf13/cobra"
)

func newVolumeLs(a *app) *cobra.Command {
	var how opening
	var any *bool
	var long bool
	c := &cobra.Command{
		Use:   "ls V.luks",
		Short: "List the files in a volume",
		Example: `  cloister volume ls patients.luks
  cloister volume ls -l patients.luks`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.volumeLs(cmd.Context(), args[0], how, long, *any)
		},
	}
	c.Flags().BoolVarP(&long, "long", "l", false, "with permissions, size, time, and where links point")
	how.flags(c)
	any = anyState(c)
	return c
}

func (a *app) volumeLs(ctx context.Context, path string, how opening, long, any bool) error {
	v, err := a.open(ctx, path, how)
	if err != nil {
		return err
	}
	defer v.Keys.Wipe()
	if err := a.current(path, v, any); err != nil {
		return err
	}
	return volume.List(path, v.Pinned, v.Keys.VolumeKey, func(i volume.Item) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := printable(i.Path)
		if i.Mode.IsDir() {
			name += "/"
		}
		if !long {
			a.printf("%s\n", name)
			return nil
		}
		switch {
		case i.HardLink != "":
			name += " = " + printable(i.HardLink)
		case i.Target != "":
			name += " -> " + printable(i.Target)
		}
		a.printf("%s %12d %s %s\n", i.Mode, i.Size, i.ModTime.Format("2006-01-02 15:04"), name)
		return nil
	})
}

func newVolumeInfo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "info V.luks",
		Short:   "Show what a volume's header says, and whether its keys are here",
		Example: "  cloister volume info patients.luks",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.volumeInfo(args[0]) },
	}
}

func (a *app) volumeInfo(path string) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	h, err := volumeInfo(path, "give a file that cloister volume create or a job made")
	if err != nil {
		return err
	}
	label := "-"
	if h.Label != "" {
		label = fmt.Sprintf("%q", h.Label)
	}
	a.printf("uuid       %s\nlabel      %s\ncipher     %s, sectors of %d bytes\npayload    %s at %d\nkeyslots   %d\n",
		h.UUID, label, h.Cipher, h.SectorSize, size(h.PayloadSize), h.PayloadOffset, len(h.Keyslots))
	for _, bad := range []struct {
		name string
		err  error
	}{{"primary", h.Primary}, {"secondary", h.Secondary}} {
		if bad.err != nil {
			a.printf("damaged    %s header: %v\n", bad.name, bad.err)
			a.note("cloister volume check --repair mends the header.\n")
		}
	}
	v, err := keystore.In(home).Describe(h.UUID)
	switch {
	case errors.Is(err, keystore.ErrUnknown):
		a.printf("keys       not on this machine\n")
	case err != nil:
		return err
	default:
		a.printf("keys       on this machine, since %s\n", v.Created.Format(time.RFC3339))
		if v.Job != "" {
			a.printf("made by    job %s\n", v.Job)
		}
		use := "writing"
		switch {
		case v.Pinned.Verity != nil:
			use = "reading: a change is noticed"
		case v.Pinned.Integrity != nil:
			use = "writing: every sector is authenticated"
		}
		a.printf("for        %s\n", use)
		if v.Seen.Counter > 0 {
			a.printf("seen       state %d, after job %s\n", v.Seen.Counter, v.Seen.Job)
		}
	}
	a.note("Nothing in a header is authenticated: cloister opens volumes with what it keeps itself.\n")
	return nil
}
