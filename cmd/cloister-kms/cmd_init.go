package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"cloister/kms/server"
)

func newInit(state *string) *cobra.Command {
	var addresses []string
	cmd := &cobra.Command{
		Use:   "init --address HOST [--address HOST-OR-IP]...",
		Short: "Make the state directory, with a CA of its own",
		Long: `init makes the state directory: a CA whose certificate goes into the site file
(ca.pem), an empty database, no users. It never overwrites one that is there,
because every site file that was handed out pins its CA.`,
		Example: `  cloister-kms init --address head --address 10.0.0.1
  cloister-kms init --state ./kms --address localhost --address 127.0.0.1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(addresses) == 0 {
				return errors.New("init needs --address: a host name or IP address by which nodes and users reach this server")
			}
			if _, err := server.Init(*state, addresses); err != nil {
				return explain(err, "check the addresses and the directory's permissions")
			}
			st, err := server.ReadStatus(*state)
			if err != nil {
				return explain(err, "remove the directory and run init again")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made a KMS in %s\nCA certificate %s/ca.pem\nCA fingerprint %s\n", *state, *state, st.CAFingerprint)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&addresses, "address", nil, "`host` name or IP address of this server; may be repeated")
	return cmd
}

// explain adds the next step for causes that several verbs share.
func explain(err error, hint string) error {
	switch {
	case errors.Is(err, server.ErrNotInitialised):
		hint = "run cloister-kms init first, or name the directory with --state"
	case errors.Is(err, server.ErrInitialised):
		hint = "use it as it is, or name another directory with --state"
	case errors.Is(err, server.ErrUserExists):
		hint = "run cloister-kms user remove first, if the user needs a new token"
	case errors.Is(err, server.ErrUnknownUser):
		hint = "see cloister-kms user list"
	case errors.Is(err, fs.ErrPermission):
		hint = "run it as root, or as the owner of the state directory"
	}
	return &failure{err, hint}
}
