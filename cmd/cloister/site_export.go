package main

import (
	"fmt"
	"time"

	"cloister/client/advice"
	"cloister/client/atomicfile"
	"cloister/client/signing"
	"cloister/site"

	"github.com/spf13/cobra"
)

func newSiteExport(a *app) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "export DRAFT -o FILE",
		Short: "Check, date and sign a site file, to give it out",
		Long: `export is for administrators. It checks a site file that was written by hand,
brings it into its canonical form, dates and signs it with the key of cloister init,
and prints its fingerprint: tell it to researchers in another way than the file.

Who has added a file that your key signed takes a newer one without a question. So
keep that key as you would the nodes' identities, best on a security key.`,
		Example: `  cloister init --key agent
  cloister site export draft.toml -o site.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.siteExport(args[0], out) },
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the `FILE` to give out")
	return c
}

func (a *app) siteExport(draft, out string) error {
	if out == "" {
		return advice.Misuse("for example: -o site.toml", "site export needs -o FILE")
	}
	home, err := homeDir()
	if err != nil {
		return err
	}
	b, err := readSmall(draft, site.MaxSize)
	if err != nil {
		return fmt.Errorf("reading the draft: %w", err)
	}
	f, err := site.Parse(b)
	if err != nil {
		return advice.Refuse("correct the draft", "%s: %w", draft, err)
	}
	config, err := signing.Load(home)
	if err != nil {
		return err
	}
	signer, err := config.Open(a.askSigning)
	if err != nil {
		return err
	}
	defer signer.Close()
	signed, err := f.Sign(signer.Signer, time.Now())
	if err != nil {
		return advice.Refuse("choose another key: cloister init --key", "%w", err)
	}
	if err := atomicfile.Write(out, signed, 0o644); err != nil {
		return err
	}
	a.note("Signed by the key %s.\n", f.SignedBy())
	a.printf("%s %s\n", f.Cluster, f.Fingerprint())
	return nil
}
