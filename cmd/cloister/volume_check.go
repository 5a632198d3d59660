package main

import (
	"context"
	"crypto/rand"
	"strings"

	"cloister/client/advice"
	"cloister/volume"

	"github.com/spf13/cobra"
)

func newVolumeCheck(a *app) *cobra.Command {
	var how opening
	var any *bool
	var repair bool
	c := &cobra.Command{
		Use:   "check V.luks",
		Short: "Read a whole volume and say what is damaged",
		Long: `check reads every byte of a volume for reading and compares it with the root hash
in CLOISTER_HOME, and every structure of the file system in it. In a volume that
a job made, it checks the authentication of all that is in use. In a volume for
writing that was made here there is nothing to compare with: changed contents of
files are not noticed.

--repair makes a damaged header whole: from its second copy, or else, if the keys
are kept here, by a new one. A new one has no other keyslots, such as that of a
passphrase. Damaged data cannot be repaired.`,
		Example: `  cloister volume check patients.luks
  cloister volume check patients.luks --repair --uuid 3b0f3c0e-8f4e-4b7e-9a50-0a5a4b0d8d63`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.volumeCheck(cmd.Context(), args[0], how, repair, *any)
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "repair the header")
	how.flags(c)
	any = anyState(c)
	return c
}

func (a *app) volumeCheck(ctx context.Context, path string, how opening, repair, any bool) error {
	v, err := a.open(ctx, path, how)
	if err != nil {
		return err
	}
	defer v.Keys.Wipe()
	if err := a.current(path, v, any); err != nil {
		return err
	}
	if repair {
		did, err := volume.RepairHeader(rand.Reader, path, v.Pinned, v.Label, v.Keys)
		if err != nil {
			return err
		}
		if did != "" {
			a.printf("%s: %s\n", path, did)
		}
	}
	p := newProgress(a.stderr, "checking")
	r, err := volume.Check(ctx, volume.CheckOptions{Path: path, Pinned: v.Pinned, VolumeKey: v.Keys.VolumeKey, Progress: p.step})
	p.clear()
	if err != nil {
		return err
	}
	if len(r.Header) > 0 {
		return advice.Refuse("cloister volume check --repair; until then, cloister itself opens the volume, cryptsetup may not",
			"%s: the data is sound, the header is damaged: %s", path, strings.Join(r.Header, "; "))
	}
	proof := "no root hash is kept that would show changed contents"
	if r.Verified {
		proof = "every byte is as it was made"
		if v.Pinned.Integrity != nil {
			proof = "every sector in use is as a node wrote it"
		}
	}
	a.printf("%s: sound, %d names; %s\n", path, r.Names, proof)
	return nil
}
