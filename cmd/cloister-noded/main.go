// Command cloister-noded is the daemon of a secure node. It is started by
// systemd (systemd/cloister-noded.service) and takes launches from Slurm's
// plugin; nobody else can talk to it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cloister/noded/helper"
	"cloister/noded/start"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=…
var version = "development"

func main() {
	helper.Main() // does not return in a short-lived helper process
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "cloister-noded: "+err.Error())
		os.Exit(1)
	}
}

func command() *cobra.Command {
	c := start.Config{Version: version}
	cmd := &cobra.Command{
		Use:   "cloister-noded",
		Short: "admit sealed Slurm jobs and lock this node for them",
		Long: `cloister-noded admits sealed jobs on this node, locks it for them, opens their
volumes where only the job sees them, and undoes it all when they end.

systemd starts it. It needs root, a policy, the list of signers and the node's
identity as the credential "identity" (LoadCredential=).`,
		Example: `  systemctl enable --now cloister-noded.socket cloister-noded.service
  cloister-noded --check          # say what is wrong with this node, change nothing`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return start.Run(ctx, c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.PolicyFile, "policy", "/etc/cloister/policy.toml", "what this node allows")
	f.StringVar(&c.RunDir, "run-dir", "/run/cloister", "journal and socket, on tmpfs")
	f.StringVar(&c.StateDir, "state-dir", "/var/lib/cloister", "the sealed jobs that this node took, and its records")
	f.StringVar(&c.Node, "node", "", "this node's Slurm name (default: the host name)")
	f.BoolVar(&c.CheckOnly, "check", false, "say what is wrong with this node and end")
	cmd.SetContext(context.Background())
	return cmd
}
