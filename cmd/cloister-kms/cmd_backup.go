package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cloister/kms/server"
)

func newBackup(p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write what a KMS cannot be made again without into a new file",
		Long: `backup writes the CA, the users, their passwords and roles into a new file, encrypted
under the state key as they are stored. It can run beside the server. It leaves
out tokens on purpose: with an old copy one that was redeemed would work again. So
after a restore queued jobs are sealed anew, and users log in anew.

Keep the file and the state key apart: neither is worth anything without the other.`,
		Example: "  cloister-kms backup /srv/backup/kms-$(date +%F).tar",
		Args:    cobra.ExactArgs(1),
		RunE: p.opened(func(_ *cobra.Command, args []string, s server.State) error {
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return explain(fmt.Errorf("writing the backup: %w", err), "name a new file in a directory that you may write to")
			}
			err = s.Backup(f)
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				os.Remove(args[0])
				return explain(err, "make room and try again; nothing was left")
			}
			return nil
		}),
	}
}

func newRestore(p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a state directory of a backup",
		Long: `restore makes a state directory of what backup wrote. The state key must be where
init had put it, or be named with --state-key. Queued jobs must be sealed anew.`,
		Example: "  cloister-kms restore kms-2026-11-26.tar",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return explain(fmt.Errorf("reading the backup: %w", err), "check the name")
			}
			defer f.Close()
			key, err := p.readKey(cmd.Context())
			if err != nil {
				return explain(err, "put the state key where it was")
			}
			defer key.Wipe()
			if err := (server.State{Dir: p.dir, Key: key}).Restore(f); err != nil {
				return explain(err, "take another backup; nothing was made that a server would use")
			}
			return nil
		},
	}
}
