package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"cloister/kms/server"
	"cloister/secret"
	"cloister/secret/prompt"
)

func newUserPasswd(p *place) *cobra.Command {
	return &cobra.Command{
		Use:   "passwd NAME",
		Short: "Set a user's password, for cloister login",
		Long: `passwd asks for a password twice and stores its argon2id hash. Where there is no
terminal it reads one line from standard input. Whoever is logged in with the
user's old password is logged out. It works at once, also while the server runs.`,
		Example: `  cloister-kms user passwd alice
  pwgen -s 20 1 | tee /dev/tty | cloister-kms user passwd alice`,
		Args: cobra.ExactArgs(1),
		RunE: p.opened(func(cmd *cobra.Command, args []string, s server.State) error {
			pass, err := newPassword(cmd.InOrStdin())
			if err != nil {
				return &failure{err, "run the command again; nothing was changed"}
			}
			defer pass.Wipe()
			return explain(s.SetPassword(args[0], pass), "see cloister-kms user list")
		}),
	}
}

// newPassword asks twice on a terminal, and takes a line of anything else.
func newPassword(in io.Reader) (secret.Bytes, error) {
	f, ok := in.(*os.File)
	if !ok || !prompt.Terminal(f) {
		b, err := io.ReadAll(io.LimitReader(in, server.MaxPassword+2))
		defer clear(b)
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("reading the password: %w", err)
		}
		line := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
		if bytes.ContainsAny(line, "\r\n") {
			return secret.Bytes{}, errors.New("reading the password: more than one line came")
		}
		return secret.New(bytes.Clone(line)), nil
	}
	first, err := ask(f, "New password: ")
	if err != nil {
		return secret.Bytes{}, err
	}
	again, err := ask(f, "The same again: ")
	if err != nil {
		first.Wipe()
		return secret.Bytes{}, err
	}
	defer again.Wipe()
	if !first.Equal(again) {
		first.Wipe()
		return secret.Bytes{}, errors.New("the two passwords differ")
	}
	return first, nil
}

func ask(f *os.File, question string) (secret.Bytes, error) {
	b, err := prompt.Ask(f, question)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the password: %w", err)
	}
	return b, nil
}
