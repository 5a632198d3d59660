package main

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"cloister/kms"
	"cloister/kms/server"
)

func newStatus(p *place) *cobra.Command {
	var port string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the KMS is, and whether it answers",
		Long: `status shows the state directory's addresses, CA and users, then asks the server
at the first address, as a client would. It exits 1 when the server does not answer.`,
		Example: `  cloister-kms status
  cloister-kms status --state ./kms --port 8201`,
		Args: cobra.NoArgs,
		RunE: p.opened(func(cmd *cobra.Command, _ []string, s server.State) error {
			st, err := s.ReadStatus()
			if err != nil {
				return explain(err, "check the state directory")
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "state           %s\n", p.dir)
			for _, a := range st.Addresses {
				fmt.Fprintf(out, "address         %s\n", a)
			}
			fmt.Fprintf(out, "CA fingerprint  %s\nCA expires      %s\nusers           %d\n", st.CAFingerprint, st.CAExpires.UTC().Format(time.DateOnly), len(st.Users))
			c, err := kms.New(kms.Config{Address: "https://" + net.JoinHostPort(st.Addresses[0], port), CAPEM: st.CAPEM, Timeout: 5 * time.Second})
			if err != nil {
				return &failure{err, "check --port"}
			}
			now, err := c.ServerTime(cmd.Context())
			if err == nil {
				fmt.Fprintf(out, "server          answers at %s, its clock %s\n", c.Address(), now.UTC().Format(time.RFC3339))
				return nil
			}
			// Only a server that does not run leaves the database free.
			if n, err := s.Outstanding(); err == nil {
				total := 0
				for _, k := range n {
					total += k
				}
				fmt.Fprintf(out, "unused tokens   %d\n", total)
			}
			fmt.Fprintln(out, "server          does not answer")
			return &failure{err, "systemctl status cloister-kms, or start it with cloister-kms serve"}
		}),
	}
	cmd.Flags().StringVar(&port, "port", "8200", "`port` that the server listens on")
	return cmd
}
