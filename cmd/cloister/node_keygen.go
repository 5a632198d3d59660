package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/identity"
	"cloister/secret/credential"

	"github.com/spf13/cobra"
)

const (
	// identityFile is what cloister-noded.service loads.
	identityFile = "/etc/cloister/identity"
	// identityName is the credential's name there.
	identityName = "identity"
)

func newNodeKeygen(a *app) *cobra.Command {
	var out, keep string
	var rotate bool
	c := &cobra.Command{
		Use:   "keygen [-o FILE]",
		Short: "Make the identity that jobs are sealed to",
		Long: `keygen makes an age identity, hybrid post-quantum, for one node or for all nodes
of a class, writes it to a new file with mode 0600, in a directory that it makes
if need be, and prints its recipient, which goes into the site file. Restart cloister-noded to have it read; a running job goes on.

With --rotate the new identity goes into the file in front of those that are there,
and these count for a stated time on: long enough for the new site file to reach all
researchers and then for max_expiry of the policy, 30d if it says nothing, in which
the last jobs sealed to the old ones may start. After it they are refused.

If FILE ends in .cred, systemd-creds encrypts it to this machine, to its TPM if it has
one. It can then be read nowhere else: there is no copy of it, and none is needed.`,
		Example: `  cloister node keygen
  cloister node keygen -o /etc/cloister/identity.cred
  cloister node keygen --rotate --keep 45d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.nodeKeygen(cmd.Context(), out, rotate, keep) },
	}
	c.Flags().StringVarP(&out, "output", "o", identityFile, "the identity's `FILE`")
	c.Flags().BoolVar(&rotate, "rotate", false, "add a new identity to the file that is there")
	c.Flags().StringVar(&keep, "keep", "45d", "with --rotate, how long the old ones count")
	return c
}

func (a *app) nodeKeygen(ctx context.Context, file string, rotate bool, keep string) error {
	kept, err := directives.ParseLifetime(keep)
	if err != nil {
		return advice.Misuse("for example: --keep 45d", "--keep: %w", err)
	}
	if rotate {
		return a.rotate(ctx, file, kept)
	}
	// Nothing else has made /etc/cloister on a new node.
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the identity's directory: %w", err)
	}
	id, err := identity.New()
	if err != nil {
		return err
	}
	text := identity.Encode([]*identity.Identity{id})
	defer text.Wipe()
	if err := credential.Write(ctx, file, identityName, text); errors.Is(err, fs.ErrExist) {
		return advice.Refuse("add a new one to it with --rotate, or name another file", "%s is there already", file)
	} else if err != nil {
		return nodeError(err)
	}
	a.printf("%s\n", id.Recipient())
	return nil
}

func (a *app) rotate(ctx context.Context, file string, keep time.Duration) error {
	text, err := credential.Read(ctx, file, identityName)
	if err != nil {
		return nodeError(err)
	}
	defer text.Wipe()
	old, err := identity.Parse(text.Reveal())
	if err != nil {
		return advice.Refuse("make a new one without --rotate", "%s: %w", file, err)
	}
	now := time.Now()
	list, err := identity.Rotate(old, now, now.Add(keep))
	if err != nil {
		return err
	}
	again := identity.Encode(list)
	defer again.Wipe()
	if err := credential.Replace(ctx, file, identityName, again); err != nil {
		return nodeError(err)
	}
	for _, i := range list[1:] {
		a.note("Until %s also %.24s… opens jobs.\n", i.Until.Format(time.RFC3339), i.Recipient())
	}
	a.note("Restart cloister-noded, then give out a site file with the new recipient:\n")
	a.printf("%s\n", list[0].Recipient())
	return nil
}

func nodeError(err error) error {
	if errors.Is(err, credential.ErrNoTool) {
		return advice.Refuse("name a file that does not end in .cred", "%w", err)
	}
	return err
}
