package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cloister/kms/server"
)

func newUser(state *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Add, remove and list the users who may wrap job keys",
		Example: `  cloister-kms user add alice --token-file alice.token
  cloister-kms user list
  cloister-kms user remove alice`,
		Args: noVerb,
		RunE: func(*cobra.Command, []string) error { return errors.New("user needs a verb: add, remove or list") },
	}
	cmd.AddCommand(newUserAdd(state), newUserRemove(state), newUserList(state))
	return cmd
}

func newUserAdd(state *string) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "add NAME [--token-file FILE]",
		Short: "Add a user and hand out their token",
		Long: `add makes a user and prints their token, or writes it to a new file with mode
0600. The server keeps its SHA-256 only: a lost token means a new user. The user
saves it as ~/.config/cloister/kms-token. It works at once, also while the server runs.`,
		Example: `  cloister-kms user add alice --token-file alice.token
  cloister-kms user add bob | install -m 600 /dev/stdin bob.token`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// The file comes first: a user whose token could not be
			// written would have to be removed again.
			out := cmd.OutOrStdout()
			if tokenFile != "" {
				f, err := os.OpenFile(tokenFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return &failure{fmt.Errorf("writing the token: %w", err), "name a new file in a directory that you may write to"}
				}
				defer f.Close()
				out = f
			}
			token, err := server.AddUser(*state, args[0])
			if err != nil {
				if tokenFile != "" {
					os.Remove(tokenFile)
				}
				return explain(err, "choose another name")
			}
			defer token.Wipe()
			if _, err := fmt.Fprintf(out, "%s\n", token.Reveal()); err != nil {
				if tokenFile != "" {
					os.Remove(tokenFile)
				}
				if rm := server.RemoveUser(*state, args[0]); rm != nil {
					return explain(rm, "remove the user by hand")
				}
				return &failure{fmt.Errorf("writing the token: %w", err), "make room and try again; the user was not added"}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write the token to this new `file` instead of the terminal")
	return cmd
}

func newUserRemove(state *string) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Make a user's token worthless; their queued jobs go on",
		Example: "  cloister-kms user remove alice",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := server.RemoveUser(*state, args[0]); err != nil {
				return explain(err, "see cloister-kms user list")
			}
			return nil
		},
	}
}

func newUserList(state *string) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the users",
		Example: "  cloister-kms user list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := server.Users(*state)
			if err != nil {
				return explain(err, "run cloister-kms init first, or name the directory with --state")
			}
			for _, u := range all {
				fmt.Fprintf(cmd.OutOrStdout(), "%s\tsince %s\n", u.Name, u.Created.Format(time.DateOnly))
			}
			return nil
		},
	}
}
