package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/client/sealing"
	"cloister/client/signing"
	"cloister/sealed"
	"cloister/site"

	"github.com/spf13/cobra"
)

type sealFlags struct {
	out, site, class, expires, user string
	env, args, local                []string
}

func newSeal(a *app) *cobra.Command {
	var f sealFlags
	c := &cobra.Command{
		Use:   "seal JOB.sh -o JOB.sealed [-- ARGUMENTS…]",
		Short: "Seal a batch script for the secure nodes of a cluster",
		Long: `seal reads the #CLOISTER lines of an ordinary batch script, encrypts the script
and the keys of its volumes to the cluster's secure nodes, and signs the whole.
The result is submitted with: sbatch --secure JOB.sealed

  #CLOISTER volume=patients.luks:/data:ro
  #CLOISTER volume=results.luks:/results:rw,create,size=1G
  #CLOISTER image=analysis.sif
  #CLOISTER secret=pem:key.pem
  #CLOISTER output=/results/slurm-%j.out
  #CLOISTER class=on-demand
  #CLOISTER expires=7d
  #CLOISTER requeue=1
  #CLOISTER env=NAME=VALUE

Every sector of a volume that the job makes is authenticated, unless the line
ends in integrity=none.

The #SBATCH lines stay readable, as Slurm needs them, and are signed too.

A job array (#SBATCH --array=1-10) has a token for each task, and each makes its
own results volume: #CLOISTER volume=results-%a.luks:/results:rw,create,size=1G.
With requeue=1 Slurm may start each of them once more, with %r in the name too.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.args = append(f.args, args[1:]...)
			return a.seal(cmd.Context(), args[0], f)
		},
	}
	c.Flags().StringVarP(&f.out, "output", "o", "", "the sealed job's `FILE` (default: the script's name with .sealed)")
	c.Flags().StringVar(&f.site, "site", "", "the `CLUSTER` (default: the only one)")
	c.Flags().StringVar(&f.class, "class", "", "class of node: dedicated or on-demand")
	c.Flags().StringVar(&f.expires, "expires", "", "how long the job may wait for its start, for example 12h or 7d (default 7d)")
	c.Flags().StringVar(&f.user, "user", "", "the user `NAME` that submits it (default: that of cloister init)")
	c.Flags().StringArrayVar(&f.env, "env", nil, "set a variable for the job: `NAME=VALUE`, or NAME for its value here")
	c.Flags().StringArrayVar(&f.args, "args", nil, "an `ARGUMENT` of the script; may be repeated")
	c.Flags().StringArrayVar(&f.local, "local", nil, "where a volume, image or secret of the script is on this machine: `PATH=FILE`; for a volume that is not, also PATH=UUID")
	return c
}

func (a *app) seal(ctx context.Context, script string, f sealFlags) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	o := sealing.Options{Home: home, Script: script, Out: f.out, Class: f.class, User: f.user, Arguments: f.args, Now: time.Now, Ask: a.askStore}
	if o.Out == "" {
		o.Out = strings.TrimSuffix(script, filepath.Ext(script)) + ".sealed"
	}
	if f.class != "" {
		if err := sealed.CheckClass(f.class); err != nil {
			return advice.Misuse("give --class dedicated or --class on-demand", "%w", err)
		}
	}
	if f.expires != "" {
		if o.Lifetime, err = directives.ParseLifetime(f.expires); err != nil {
			return advice.Misuse("for example: --expires 7d", "%w", err)
		}
	}
	if o.Environment, err = parseEnv(f.env); err != nil {
		return err
	}
	if o.Local, err = parseLocal(f.local); err != nil {
		return err
	}
	config, err := signing.Load(home)
	if err != nil {
		return err
	}
	if o.User == "" {
		o.User = config.User
	}
	if o.Site, err = site.Load(home, f.site); err != nil {
		return err
	}
	client, err := o.Site.Client(0)
	if err != nil {
		return err
	}
	o.KMS = client
	var source string
	if o.UserToken, source, err = o.Site.UserToken(home); err != nil {
		return err
	}
	defer o.UserToken.Wipe()
	signer, err := config.Open(a.askSigning)
	if err != nil {
		return err
	}
	defer signer.Close()
	o.Signer = signer.Signer
	p := newProgress(a.stderr, "reading the image")
	o.Progress = p.step
	result, err := sealing.Seal(ctx, o)
	p.clear()
	if err != nil {
		return tokenFrom(source, err)
	}
	for _, w := range result.Warnings {
		a.note("%s\n", w)
	}
	a.printf("%s: job %s for user %s on %s nodes of %s, expires %s\n",
		o.Out, result.Record.Job, result.Record.User, result.Record.Class, result.Record.Cluster, result.Record.Expires.Format(time.RFC3339))
	if runs := result.Record.Runs; runs != nil {
		a.printf("%s\n", describeRuns(runs))
	}
	a.note("Submit it on the cluster: %s\n", submitLine(o.Out, result.Record.Arguments))
	return nil
}

// submitLine is what to type on the login node. The node takes a job with the
// arguments that were sealed and no others.
func submitLine(file string, arguments []string) string {
	line := "sbatch --secure " + quote(filepath.Base(file))
	for _, arg := range arguments {
		line += " " + quote(arg)
	}
	return line
}

// quote makes one word of a POSIX shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func parseEnv(list []string) (map[string]string, error) {
	env := make(map[string]string)
	for _, e := range list {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return nil, advice.Misuse("give --env NAME=VALUE", "--env %s: there is no such variable here", name)
			}
		}
		if err := sealed.CheckVariable(name, value); err != nil {
			return nil, advice.Misuse("give --env NAME=VALUE", "--env: %w", err)
		}
		env[name] = value
	}
	return env, nil
}

func parseLocal(list []string) (map[string]string, error) {
	local := make(map[string]string)
	for _, l := range list {
		path, file, ok := strings.Cut(l, "=")
		if !ok || path == "" || file == "" {
			return nil, advice.Misuse("for example: --local /shared/alice/patients.luks=patients.luks", "--local %s: want PATH=FILE", l)
		}
		local[path] = file
	}
	return local, nil
}

// describeRuns says in words how often a job may run.
func describeRuns(r *sealed.Runs) string {
	text := "runs once"
	if r.Array() {
		text = fmt.Sprintf("array of tasks %s, each runs once", r)
	}
	switch n := r.Requeues(); n {
	case 0:
	case 1:
		text += ", and once more if Slurm requeues it"
	default:
		text += fmt.Sprintf(", and up to %d times more if Slurm requeues it", n)
	}
	return fmt.Sprintf("%s: %d runs, each with a token of its own", text, r.Count())
}
