// Package manual writes the manual pages of a command line out of its help. They
// are not kept in the repository: whoever packages the programs makes them.
package manual

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Command is a hidden "docs man DIR", which writes a page of that section
// (man-pages(7)) for the program and for each of its commands.
func Command(section, version string) *cobra.Command {
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
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Title: strings.ToUpper(root.Name()), Section: section, Source: "Cloister " + version, Manual: "Cloister", Date: &date}
			return doc.GenManTree(root, header, args[0])
		},
	})
	return c
}
