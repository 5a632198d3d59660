package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"cloister/client/advice"
	"cloister/client/atomicfile"
	"cloister/client/signing"
	"cloister/kms"
	"cloister/secret"
	"cloister/site"

	"github.com/spf13/cobra"
)

type loginFlags struct {
	site, method, path, user, role string
	port                           uint16
	check                          bool
}

func newLogin(a *app) *cobra.Command {
	var f loginFlags
	c := &cobra.Command{
		Use:   "login",
		Short: "Get a token for the KMS of a cluster",
		Long: `login gets a token for the key server of a cluster and keeps it in CLOISTER_HOME,
for cloister seal and cloister revoke. Sealed jobs that wait do not need it.

  userpass   a name and a password
  oidc       a page in your browser; OpenBao and Vault offer it, cloister-kms does not
  token      a token that you have, for example from bao login

A password or token is asked for without echo, or read as one line from standard
input if that is no terminal; it is never an argument.`,
		Example: `  cloister login
  cloister login --method oidc --role researcher
  cloister login --method token < token
  cloister login --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.check {
				return a.loginCheck(cmd.Context(), f.site)
			}
			return a.login(cmd.Context(), cmd.InOrStdin(), f)
		},
	}
	c.Flags().StringVar(&f.site, "site", "", "the `CLUSTER` (default: the only one)")
	c.Flags().StringVar(&f.method, "method", "userpass", "userpass, oidc or token")
	c.Flags().StringVar(&f.path, "path", "", "where the KMS has the method below auth/ (default: its name)")
	c.Flags().StringVar(&f.user, "user", "", "your `NAME` for the KMS, with userpass (default: that of cloister init)")
	c.Flags().StringVar(&f.role, "role", "", "the `ROLE`, with oidc (default: the method's)")
	c.Flags().Uint16Var(&f.port, "port", 8250, "the port of this machine that the browser comes back to, with oidc")
	c.Flags().BoolVar(&f.check, "check", false, "say who is logged in and until when, and change nothing")
	return c
}

func newLogout(a *app) *cobra.Command {
	var cluster string
	c := &cobra.Command{
		Use:   "logout",
		Short: "Revoke the token of cloister login",
		Long: `logout has the KMS forget the token that cloister login got, and removes it here.
Sealed jobs that wait go on; to revoke one you have to log in again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.logout(cmd.Context(), cluster) },
	}
	c.Flags().StringVar(&cluster, "site", "", "the `CLUSTER` (default: the only one)")
	return c
}

// atKMS is the KMS of a cluster and Cloister's directory.
type atKMS struct {
	home   string
	site   *site.File
	client *kms.Client
}

func openKMS(cluster string) (*atKMS, error) {
	home, err := homeDir()
	if err != nil {
		return nil, err
	}
	f, err := site.Load(home, cluster)
	if err != nil {
		return nil, err
	}
	client, err := f.Client(0)
	if err != nil {
		return nil, err
	}
	return &atKMS{home, f, client}, nil
}

func (a *app) login(ctx context.Context, in io.Reader, f loginFlags) error {
	k, err := openKMS(f.site)
	if err != nil {
		return err
	}
	if f.path == "" {
		f.path = f.method
	}
	if err := kms.CheckMount(f.path); err != nil {
		return advice.Misuse("for example: --path userpass", "%w", err)
	}
	var got kms.Login
	switch f.method {
	case "userpass":
		got, err = a.loginUserpass(ctx, k, in, f)
	case "oidc":
		got, err = a.loginOIDC(ctx, k.client, f)
	case "token":
		got.Token, err = a.line(in, "Token: ")
	default:
		return advice.Misuse("cloister login --help", "--method %.40q: want userpass, oidc or token", f.method)
	}
	if err != nil {
		return err
	}
	defer got.Token.Wipe()
	// The server's own word on what came, whatever the method.
	holder, err := k.client.WhoHolds(ctx, got.Token)
	if err != nil {
		return err
	}
	path := kms.TokenPath(k.home, k.site.Cluster)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keeping your token: %w", err)
	}
	if err := atomicfile.Write(path, got.Token.Reveal(), 0o600); err != nil {
		return fmt.Errorf("keeping your token: %w", err)
	}
	a.status(k, holder)
	return nil
}

// status prints who is logged in where and until when.
func (a *app) status(k *atKMS, h kms.Holder) {
	until := "until it is revoked"
	if h.Life > 0 {
		until = "until " + time.Now().Add(h.Life).Format(time.RFC3339)
	}
	a.printf("%s: logged in as %s %s\n", k.site.Cluster, h.Name, until)
}

func (a *app) loginUserpass(ctx context.Context, k *atKMS, in io.Reader, f loginFlags) (kms.Login, error) {
	name := f.user
	if name == "" {
		config, err := signing.Load(k.home)
		if err == nil {
			name = config.User
		} else if name, err = localUser(); err != nil {
			return kms.Login{}, err
		}
	}
	password, err := a.line(in, "Password of "+name+" for the KMS of "+k.site.Cluster+": ")
	if err != nil {
		return kms.Login{}, err
	}
	defer password.Wipe()
	return k.client.LoginUserpass(ctx, f.path, name, password)
}

// maxLine bounds a password or token that comes through a pipe, in bytes.
const maxLine = 4 << 10

// line asks for a secret on a terminal, and takes the one line of anything else.
func (a *app) line(in io.Reader, prompt string) (secret.Bytes, error) {
	if in == os.Stdin && haveTerminal() {
		return a.ask(prompt, "")
	}
	b, err := io.ReadAll(io.LimitReader(in, maxLine+2))
	defer clear(b)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading standard input: %w", err)
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(line) == 0 || len(line) > maxLine || bytes.ContainsAny(line, "\r\n") {
		return secret.Bytes{}, advice.Refuse("run it in a terminal, or give one line on standard input", "no password or token came, or more than one line")
	}
	return secret.New(bytes.Clone(line)), nil
}

func (a *app) loginCheck(ctx context.Context, cluster string) error {
	k, err := openKMS(cluster)
	if err != nil {
		return err
	}
	token, source, err := k.site.UserToken(k.home)
	if err != nil {
		return err
	}
	defer token.Wipe()
	holder, err := k.client.WhoHolds(ctx, token)
	if err != nil {
		return tokenFrom(source, err)
	}
	a.status(k, holder)
	a.note("The token is from %s.\n", source)
	return nil
}

// tokenFrom adds to the KMS's refusal where the token was found.
func tokenFrom(source string, err error) error {
	if errors.Is(err, kms.ErrDenied) {
		return fmt.Errorf("the token from %s: %w", source, err)
	}
	return err
}

func (a *app) logout(ctx context.Context, cluster string) error {
	k, err := openKMS(cluster)
	if err != nil {
		return err
	}
	path := kms.TokenPath(k.home, k.site.Cluster)
	if _, err := os.Lstat(path); err != nil {
		return advice.Refuse("cloister login --check says which token counts", "you are not logged in to %s", k.site.Cluster)
	}
	token, err := kms.ReadToken(path)
	if err != nil {
		return err
	}
	defer token.Wipe()
	// One that the KMS does not know any more has expired: gone as well.
	revoked := k.client.Logout(ctx, token)
	if revoked != nil && !errors.Is(revoked, kms.ErrDenied) {
		return fmt.Errorf("you are still logged in: %w", revoked)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing your token: %w", err)
	}
	if revoked != nil {
		a.note("The KMS did not know the token any more.\n")
	}
	a.printf("%s: logged out\n", k.site.Cluster)
	return nil
}
