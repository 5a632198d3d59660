// Command cloister-kms is the embedded KMS for demonstrations and small sites:
// single-use tokens for job keys, by Vault's HTTP API. See package kms/server
// for what it protects and what not.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cloister/cmd/manual"
)

// version is set by the linker: -X main.version=…
var version = "development"

// Exit codes, an interface for scripts: 0 done, 1 failed, 2 wrong arguments,
// 130 interrupted (128 + SIGINT).
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	hint := "see cloister-kms --help"
	code := exitUsage
	if f, ok := errors.AsType[*failure](err); ok {
		hint, code = f.hint, exitFailed
	}
	if errors.Is(err, context.Canceled) {
		err, code = errors.New("interrupted"), exitInterrupted
	}
	fmt.Fprintln(os.Stderr, "cloister-kms:", err)
	fmt.Fprintln(os.Stderr, "  next:", hint)
	return code
}

// failure is an error that is not about arguments, with what to do next.
type failure struct {
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cloister-kms",
		Short: "The embedded key management server of Cloister",
		Long: `cloister-kms keeps the key of each sealed job behind single-use tokens, and
answers the response-wrapping part of Vault's HTTP API. It is for demonstrations
and small sites; larger ones run OpenBao or HashiCorp Vault instead.`,
		Example: `  cloister-kms init --address head --address 10.0.0.1
  systemctl enable --now cloister-kms
  cloister-kms user add alice
  cloister-kms user passwd alice
  cloister-kms status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noVerb,
		RunE:          func(*cobra.Command, []string) error { return errors.New("a verb is missing") },
	}
	var p place
	root.PersistentFlags().StringVar(&p.dir, "state", defaultState, "state `directory`")
	root.PersistentFlags().StringVar(&p.key, "state-key", "", "the `file` with the key of the state (default: "+defaultKey+", or the state's name with .key)")
	root.AddCommand(newInit(&p), newUser(&p), newRole(&p), newServe(&p), newStatus(&p), newBackup(&p), newRestore(&p), manual.Command("8", version))
	return root
}

// noVerb is for commands that only have verbs below them: cobra itself shows
// help and exits 0 for a verb that does not exist.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	return nil
}
