// Command cloister is the researcher's tool: it makes volumes, seals batch
// scripts for the secure nodes of a cluster, and opens the results. It needs no
// root and keeps its keys in CLOISTER_HOME, else in the user's configuration
// directory.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"cloister/client/advice"
	"cloister/cmd/manual"
	"cloister/sealed"
	"cloister/secret/prompt"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=…
var version = "development"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The signals are not given back: one that came right before the exit would
	// make a command that is done end as if it were not.
	ctx, _ := signal.NotifyContext(context.Background(), prompt.Endings()...)
	root := newRoot(&app{stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return advice.OK
	}
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		err = &advice.Error{Status: advice.Interrupted, Err: errors.New("interrupted"), Next: "nothing was left half done; run the command again"}
	}
	return report(stderr, err)
}

// app is what commands share.
type app struct {
	stdout, stderr io.Writer
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }
func (a *app) note(format string, args ...any)   { fmt.Fprintf(a.stderr, format, args...) }

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "cloister",
		Short: "Run Slurm jobs on sensitive data",
		Long: `cloister makes encrypted volumes, seals batch scripts for the secure nodes of a
Slurm cluster, and opens the results. Nobody but you and the node that runs the
job can read the data: not the cluster's other users, not root on a login node.

  cloister init                                   once: make your signing key
  cloister site add site.toml                     once: the cluster's site file
  cloister login                                  now and then: a token for its key server
  cloister volume create patients.luks --from patients/
  cloister seal job.sh -o job.sealed
  sbatch --secure job.sealed                      on the login node
  cloister revoke job.sealed                      if it shall not run after all
  cloister volume extract results.luks --to results/

Administrators look after a secure node with cloister node and cloister audit.

Exit status: 0 success, 1 failure of the machine, the network or a server,
2 wrong arguments, 3 what was given is not valid or is refused, 4 wrong passphrase
or key, 5 the volume is in use, 6 an authenticated volume was altered or an older
one was put in its place, 7 the node refuses sealed jobs, 130 interrupted.

Environment: CLOISTER_HOME is where keys and configuration live. Without a cloister
login, your token for the KMS may be in BAO_TOKEN or VAULT_TOKEN, if BAO_ADDR or
VAULT_ADDR is that KMS's address.`,
		Version:       fmt.Sprintf("%s (sealed job format %d)", version, sealed.Format),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return advice.Misuse(cmd.CommandPath()+" --help", "%w", err)
	})
	root.AddCommand(newInit(a), newSite(a), newLogin(a), newLogout(a), newVolume(a), newSeal(a), newImage(a), newVerify(a), newRevoke(a), newNode(a), newAudit(a), manual.Command("1", version))
	wantArguments(root)
	return root
}

// wantArguments makes a wrong number of arguments, or an unknown command, a
// misuse with advice, for every command below c.
func wantArguments(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return advice.Misuse(cmd.CommandPath()+" --help", "%w", err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wantArguments(sub)
	}
}
