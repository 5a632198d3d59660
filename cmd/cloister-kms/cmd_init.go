package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"cloister/kms/server"
	"cloister/secret/credential"
)

func newInit(p *place) *cobra.Command {
	var addresses []string
	cmd := &cobra.Command{
		Use:   "init --address HOST [--address HOST-OR-IP]...",
		Short: "Make the state directory, with a CA of its own",
		Long: `init makes the state directory: a CA whose certificate goes into the site file
(ca.pem), an empty database, no users. It never overwrites one that is there,
because every site file that was handed out pins its CA.

Everything in it is encrypted under a key that init makes and puts into
` + defaultKey + `, from where systemd hands it to the server; for
another state directory, into a file of its name with .key. Keep a copy of the key
apart from copies of the state. A name that ends in .cred has systemd-creds encrypt
the key to this machine; then there is no copy.`,
		Example: `  cloister-kms init --address head --address 10.0.0.1
  cloister-kms init --address head --state-key ` + defaultKey + `.cred
  cloister-kms init --state ./kms --address localhost --address 127.0.0.1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(addresses) == 0 {
				return errors.New("init needs --address: a host name or IP address by which nodes and users reach this server")
			}
			if err := p.create(cmd.Context(), addresses); err != nil {
				return explain(err, "check the addresses and the directory's permissions")
			}
			s, err := p.open(cmd.Context())
			if err != nil {
				return explain(err, "remove the directory and run init again")
			}
			defer s.Key.Wipe()
			st, err := s.ReadStatus()
			if err != nil {
				return explain(err, "remove the directory and run init again")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made a KMS in %s\nits key is in %s\nCA certificate %s/ca.pem\nCA fingerprint %s\n", p.dir, p.keyFile(), p.dir, st.CAFingerprint)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&addresses, "address", nil, "`host` name or IP address of this server; may be repeated")
	return cmd
}

// explain adds the next step to an error, hint or, for causes that several verbs
// share, a better one.
func explain(err error, hint string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, server.ErrNotInitialised):
		hint = "run cloister-kms init first, or name the directory with --state"
	case errors.Is(err, server.ErrInitialised):
		hint = "use it as it is, or name another directory with --state"
	case errors.Is(err, server.ErrUserExists):
		hint = "run cloister-kms user remove first, if the user needs a new token"
	case errors.Is(err, server.ErrUnknownUser):
		hint = "see cloister-kms user list"
	case errors.Is(err, server.ErrUnknownRole):
		hint = "see cloister-kms role list"
	case errors.Is(err, server.ErrRoleExists):
		hint = "name another, or change it with --replace; sealer, auditor and operator stay as they are"
	case errors.Is(err, server.ErrRoleInUse):
		hint = "give those users another first: cloister-kms user role NAME ROLE"
	case errors.Is(err, server.ErrStateKey):
		hint = "name the file with the key that init made: --state-key"
	case errors.Is(err, server.ErrPassword):
		hint = "choose another one, for example six random words"
	case errors.Is(err, credential.ErrNoTool):
		hint = "name a file that does not end in .cred"
	case errors.Is(err, fs.ErrExist):
		hint = "use what is there, or name another file"
	case errors.Is(err, fs.ErrPermission):
		hint = "run it as root, or as the owner of the state directory"
	}
	return &failure{err, hint}
}
