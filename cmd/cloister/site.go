package main

import (
	"fmt"
	"io"
	"os"

	"cloister/client/advice"
	"cloister/site"

	"github.com/spf13/cobra"
)

func newSite(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "site",
		Short: "The clusters that you seal jobs for",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var replace bool
	add := &cobra.Command{
		Use:   "add FILE",
		Short: "Add the site file of a cluster",
		Long: `add checks and keeps the site file that the cluster's administrator gives out.
It names the nodes that may read your jobs: compare the fingerprint with one
that you got in another way.

If the administrator's key has signed it, that key is remembered: a newer file
that it signed replaces this one without a question, any other only with --replace.`,
		Example: `  cloister site add site.toml
  cloister site add --replace site.toml     # once the administrator has told you its fingerprint`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.siteAdd(args[0], replace) },
	}
	add.Flags().BoolVar(&replace, "replace", false, "replace a different site file of the same cluster")
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the clusters, the fingerprints of their site files, and who signed them",
		Example: "  cloister site list",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.siteList() },
	}
	c.AddCommand(add, list, newSiteExport(a))
	return c
}

func (a *app) siteAdd(file string, replace bool) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("reading the site file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, site.MaxSize+1))
	if err != nil {
		return fmt.Errorf("reading the site file: %w", err)
	}
	parsed, err := site.Parse(b)
	if err != nil {
		return advice.Refuse("ask the cluster's administrator for the site file", "%s: %w", file, err)
	}
	added, err := site.Add(home, b, replace)
	if err != nil {
		return err
	}
	if added.Replaced != "" {
		a.note("It replaces a different site file, %s.\n", added.Replaced)
	}
	switch by := parsed.SignedBy(); {
	case added.Known:
		a.note("It was added before.\n")
	case added.Trusted:
		a.note("The key that signed that one has signed this one too: %s.\n", by)
	case by != "":
		a.note("Signed on %s by the key %s, which later files must be signed by.\n", parsed.Issued, by)
		fallthrough
	default:
		a.note("Compare the fingerprint with the administrator's: who makes you use another site file reads your jobs.\n")
	}
	a.printf("%s %s\n", parsed.Cluster, added.Fingerprint)
	return nil
}

func (a *app) siteList() error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	names, err := site.List(home)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		a.note("There is no site file yet: cloister site add FILE\n")
	}
	for _, n := range names {
		f, err := site.Load(home, n)
		if err != nil {
			return err
		}
		by := "not signed"
		if f.SignedBy() != "" {
			by = fmt.Sprintf("signed on %s by %s", f.Issued, f.SignedBy())
		}
		a.printf("%s %s %s %s\n", f.Cluster, f.Fingerprint(), f.KMS.Address, by)
	}
	return nil
}
