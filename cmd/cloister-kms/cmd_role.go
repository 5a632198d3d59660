package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cloister/kms/server"
)

func newRole(p *place) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "role",
		Short: "Say what users may do, and how much of it",
		Example: `  cloister-kms role add student --max-ttl 24h --max-tokens 20 --rate 10
  cloister-kms user add alice --role student
  cloister-kms role list`,
		Args: noVerb,
		RunE: func(*cobra.Command, []string) error { return errors.New("role needs a verb: add, remove or list") },
	}
	cmd.AddCommand(newRoleAdd(p), newRoleRemove(p), newRoleList(p))
	return cmd
}

func newRoleAdd(p *place) *cobra.Command {
	var (
		r       server.Role
		replace bool
	)
	cmd := &cobra.Command{
		Use:   "add NAME [--may WHAT,...] [--max-ttl TIME] [--max-tokens N] [--rate N]",
		Short: "Add a role, or change it with --replace",
		Long: `add makes a role. --may names what its users may do:

  wrap    wrap job keys, which is what sealing a job takes
  list    list the accessors of unused tokens, and look up whose they are
  revoke  revoke anybody's unused token by its accessor

Everybody may revoke what they wrapped themselves. Nobody may read what is wrapped.

Limits are for each user; they can lower the server's, not raise them. A changed role
counts from the next request on, also while the server runs.`,
		Example: `  cloister-kms role add student --max-ttl 24h --max-tokens 20 --rate 10
  cloister-kms role add student --max-ttl 48h --max-tokens 20 --rate 10 --replace`,
		Args: cobra.ExactArgs(1),
		RunE: p.opened(func(_ *cobra.Command, args []string, s server.State) error {
			r.Name = args[0]
			return explain(s.SetRole(r, replace), "see cloister-kms role add --help")
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&r.May, "may", []string{server.MayWrap}, "`what` its users may do: wrap, list, revoke")
	f.DurationVar(&r.MaxTTL, "max-ttl", 0, "longest life of a token; longer ones are lowered to it")
	f.IntVar(&r.MaxTokens, "max-tokens", 0, "unused tokens that one user may have")
	f.IntVar(&r.Rate, "rate", 0, "tokens that one user may wrap a minute")
	f.BoolVar(&replace, "replace", false, "change a role that is there")
	return cmd
}

func newRoleRemove(p *place) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a role that no user has",
		Example: "  cloister-kms role remove student",
		Args:    cobra.ExactArgs(1),
		RunE: p.opened(func(_ *cobra.Command, args []string, s server.State) error {
			return explain(s.RemoveRole(args[0]), "see cloister-kms role list")
		}),
	}
}

func newRoleList(p *place) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the roles",
		Example: "  cloister-kms role list",
		Args:    cobra.NoArgs,
		RunE: p.opened(func(cmd *cobra.Command, _ []string, s server.State) error {
			all, err := s.Roles()
			if err != nil {
				return explain(err, "check the state directory")
			}
			for _, r := range all {
				fmt.Fprintf(cmd.OutOrStdout(), "%s\tmay %s\t%s\n", r.Name, strings.Join(r.May, ", "), limits(r))
			}
			return nil
		}),
	}
}

// limits are those of a role, in words.
func limits(r server.Role) string {
	var l []string
	if r.MaxTTL > 0 {
		l = append(l, fmt.Sprintf("max TTL %s", r.MaxTTL.Round(time.Second)))
	}
	if r.MaxTokens > 0 {
		l = append(l, fmt.Sprintf("max tokens %d", r.MaxTokens))
	}
	if r.Rate > 0 {
		l = append(l, fmt.Sprintf("%d a minute", r.Rate))
	}
	return cmp.Or(strings.Join(l, ", "), "the server's limits")
}

func newUserRole(p *place) *cobra.Command {
	return &cobra.Command{
		Use:     "role NAME ROLE",
		Short:   "Give a user another role, from the next request on",
		Example: "  cloister-kms user role alice operator",
		Args:    cobra.ExactArgs(2),
		RunE: p.opened(func(_ *cobra.Command, args []string, s server.State) error {
			return explain(s.SetUserRole(args[0], args[1]), "see cloister-kms user list")
		}),
	}
}
