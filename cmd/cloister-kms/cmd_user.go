package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cloister/kms/server"
)

func newUser(p *place) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Add, remove and list the users and what they may do",
		Example: `  cloister-kms user add alice --no-token
  cloister-kms user passwd alice
  cloister-kms user list
  cloister-kms user remove alice`,
		Args: noVerb,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("user needs a verb: add, passwd, role, remove or list")
		},
	}
	cmd.AddCommand(newUserAdd(p), newUserPasswd(p), newUserRole(p), newUserRemove(p), newUserList(p))
	return cmd
}

func newUserAdd(p *place) *cobra.Command {
	var (
		tokenFile string
		noToken   bool
		role      string
	)
	cmd := &cobra.Command{
		Use:   "add NAME [--token-file FILE]",
		Short: "Add a user and hand out their token",
		Long: `add makes a user and prints their token, or writes it to a new file with mode
0600. The server keeps its SHA-256 only: a lost token means a new user. The user
saves it as kms-token in Cloister's directory, on Linux ~/.config/cloister, or, with
site files of several clusters, gives it to cloister login --method token. It works
at once, also while the server runs, and until the user is removed.

With --no-token the user has to log in, with a password that user passwd sets, and
what they log in with ends by itself.

--role says what the user may do; see cloister-kms role list.`,
		Example: `  cloister-kms user add alice --no-token && cloister-kms user passwd alice
  cloister-kms user add bob --token-file bob.token
  cloister-kms user add eve --role auditor --token-file eve.token
  cloister-kms user add carol | install -m 600 /dev/stdin carol.token`,
		Args: cobra.ExactArgs(1),
		RunE: p.opened(func(cmd *cobra.Command, args []string, s server.State) error {
			if noToken {
				token, err := s.AddUser(args[0], role)
				if err != nil {
					return explain(err, "choose another name")
				}
				token.Wipe() // nobody has it
				return nil
			}
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
			token, err := s.AddUser(args[0], role)
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
				if rm := s.RemoveUser(args[0]); rm != nil {
					return explain(rm, "remove the user by hand")
				}
				return &failure{fmt.Errorf("writing the token: %w", err), "make room and try again; the user was not added"}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write the token to this new `file` instead of the terminal")
	cmd.Flags().BoolVar(&noToken, "no-token", false, "give the user no token: they log in with a password")
	cmd.Flags().StringVar(&role, "role", server.DefaultRole, "the user's `role`")
	cmd.MarkFlagsMutuallyExclusive("token-file", "no-token")
	return cmd
}

func newUserRemove(p *place) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Make a user's token and password worthless; their queued jobs go on",
		Example: "  cloister-kms user remove alice",
		Args:    cobra.ExactArgs(1),
		RunE: p.opened(func(_ *cobra.Command, args []string, s server.State) error {
			return explain(s.RemoveUser(args[0]), "see cloister-kms user list")
		}),
	}
}

func newUserList(p *place) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the users",
		Example: "  cloister-kms user list",
		Args:    cobra.NoArgs,
		RunE: p.opened(func(cmd *cobra.Command, _ []string, s server.State) error {
			all, err := s.Users()
			if err != nil {
				return explain(err, "run cloister-kms init first, or name the directory with --state")
			}
			for _, u := range all {
				how := "no password"
				if u.Password {
					how = "password"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s\tsince %s\t%s\t%s\n", u.Name, u.Created.Format(time.DateOnly), how, u.Role)
			}
			return nil
		}),
	}
}
