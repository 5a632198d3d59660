package main

import (
	"strconv"

	"cloister/client/advice"
	"cloister/noded/audit"

	"github.com/spf13/cobra"
)

func newAudit(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Check the records of a secure node",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newAuditVerify(a))
	return c
}

func newAuditVerify(a *app) *cobra.Command {
	var head string
	c := &cobra.Command{
		Use:   "verify [DIR|FILE]",
		Short: "Find records that were changed, removed, moved or put in",
		Long: `verify follows the chain of a secure node's records and says which of them were
changed, removed, moved or put in. It reads ` + audit.Dir + ` unless another
directory, or one file, is named; a copy on another machine will do.

A cut at the end leaves no gap in the chain, and who is root on the node can
write all of it anew. So verify prints the head, the number and hash of the last
record; note it somewhere else, and give it to --head the next time: records
that were there then must be there still. The journal has it with every record
(CLOISTER_HEAD), and cloister node status shows it.

Exit status: 0 the chain is whole, 3 it is not, 1 it could not be read.`,
		Example: `  cloister audit verify
  cloister audit verify copy-of-s2/ --head 1234:9f86d081884c7d65…`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var noted *audit.Head
			if head != "" {
				h, err := audit.ParseHead(head)
				if err != nil {
					return advice.Misuse("cloister audit verify prints heads as they are read", "%w", err)
				}
				noted = &h
			}
			return verifyRecords(a, append(args, audit.Dir)[0], noted)
		},
	}
	c.Flags().StringVar(&head, "head", "", "a head that was noted before, NUMBER:HASH")
	return c
}

func verifyRecords(a *app, path string, noted *audit.Head) error {
	r, err := audit.Verify(path, noted)
	if err != nil {
		return err
	}
	for _, f := range r.Faults {
		a.printf("fault: %s\n", f)
	}
	for _, n := range r.Notes {
		a.printf("note: %s\n", n)
	}
	if r.Before != "" {
		a.printf("note: %s\n", r.Before)
	}
	if r.Records > 0 {
		a.printf("records %d to %d in %s\n", r.First, r.Last, count(r.Files, "file"))
		for _, i := range audit.Incidents {
			if n := r.Incidents[i].All; n > 0 {
				a.printf("incidents: %d, %s (%s)\n", n, i, string(i))
			}
		}
		a.printf("head %s\n", r.Head)
	}
	if len(r.Faults) > 0 {
		return advice.Refuse("keep a copy of the records, and compare them with the journal (journalctl -u cloister-noded) and with heads that were noted",
			"the records in %s are not as the node wrote them", path)
	}
	if noted != nil {
		a.printf("whole, and it holds the record that was noted\n")
	} else {
		a.printf("whole\n")
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
