package main

import (
	"os/user"
	"strings"

	"cloister/client/advice"
	"cloister/client/keystore"
	"cloister/client/signing"
	"cloister/sealed"
	"cloister/secret"

	"github.com/spf13/cobra"
)

func newInit(a *app) *cobra.Command {
	var key, name, certificate string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make or choose the key that signs your jobs",
		Long: `init makes an Ed25519 signing key in CLOISTER_HOME, or chooses one that you have,
and prints the line that the cluster's administrator adds to allowed_signers.

A security key (FIDO) signs through an SSH agent: ssh-add its file first. With
--certificate jobs carry an OpenSSH certificate over the key, read anew at each
seal; the line then names the authority that issued it.

In a terminal it also asks whether the keys of your volumes are to be encrypted
under a passphrase; cloister volume protect does that later.`,
		Example: `  cloister init
  cloister init --user alice --key ~/.ssh/id_ed25519
  cloister init --key agent
  cloister init --key ~/.ssh/id_ed25519 --certificate ~/.ssh/id_ed25519-cert.pub`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.init(key, name, certificate) },
	}
	c.Flags().StringVar(&key, "key", "", "use this SSH private key `FILE`, or agent, or agent:SHA256:… (its fingerprint)")
	c.Flags().StringVar(&certificate, "certificate", "", "an OpenSSH certificate over the key, a `FILE`")
	c.Flags().StringVar(&name, "user", "", "your user `NAME` on the cluster (default: your name on this machine)")
	return c
}

func (a *app) init(key, name, certificate string) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	if name == "" {
		if name, err = localUser(); err != nil {
			return err
		}
	}
	if err := sealed.CheckName(name); err != nil {
		return advice.Misuse("give your user name on the cluster with --user", "%w", err)
	}
	protect, err := a.offerProtection(home)
	if err != nil {
		return err
	}
	defer protect.Wipe()
	var c *signing.Config
	place, fingerprint, _ := strings.Cut(key, ":")
	switch {
	case key == "" && certificate != "":
		return advice.Misuse("name the key that the certificate is of with --key", "a new key has no certificate")
	case key == "":
		c, err = signing.Create(home, name)
	case place == "agent":
		c, err = signing.UseAgent(home, name, fingerprint, certificate)
	default:
		c, err = signing.UseFile(home, name, key, certificate, a.askSigning)
	}
	if err != nil {
		return err
	}
	if protect.Len() > 0 {
		if err := keystore.In(home).Protect(protect); err != nil {
			return err
		}
	}
	if c.Path != "" {
		a.note("Your jobs will be signed with the key in %s.\n", c.File())
	} else {
		a.note("Your jobs will be signed with a key in your SSH agent.\n")
	}
	a.note("Give this line to the cluster's administrator, for allowed_signers:\n")
	a.printf("%s\n", c.Line())
	return nil
}

// offerProtection asks for a passphrase for the store of keys, if there is
// somebody to ask and it has none. Empty means that none is wanted.
func (a *app) offerProtection(home string) (secret.Bytes, error) {
	protected, err := keystore.In(home).Protected()
	if err != nil || protected || !haveTerminal() {
		return secret.Bytes{}, err
	}
	a.note("The keys of your volumes will be kept in %s.\n", home)
	p, err := a.ask("A passphrase to encrypt them under (none: they are as safe as this disk): ", "")
	if err != nil || p.Len() == 0 {
		return secret.Bytes{}, err
	}
	return p, a.confirm(p, "")
}

func localUser() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", advice.Fail("give your user name on the cluster with --user", "finding your user name: %w", err)
	}
	// Windows: DOMAIN\name.
	return u.Username[strings.LastIndex(u.Username, `\`)+1:], nil
}
