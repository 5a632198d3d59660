package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newDocs writes the man pages when a package is built.
func newDocs() *cobra.Command {
	c := &cobra.Command{Use: "docs", Short: "Write documentation", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(&cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages into a directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("writing the man pages: %w", err)
			}
			// The same pages whenever they are made.
			date := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
			header := &doc.GenManHeader{Title: "CLOISTER", Section: "1", Source: "Cloister " + version, Manual: "Cloister", Date: &date}
			cmd.Root().DisableAutoGenTag = true
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	})
	return c
}
