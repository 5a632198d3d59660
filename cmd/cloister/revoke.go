package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"cloister/client/advice"
	"cloister/client/jobs"
	"cloister/client/sealing"
	"cloister/sealed"
	"cloister/site"

	"github.com/spf13/cobra"
)

func newRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke JOB.sealed",
		Short: "Make a sealed job worthless: revoke its unused tokens",
		Long: `revoke tells the KMS to forget the tokens of a sealed job that were not used yet:
no node can open its volumes any more. A job that has started keeps its keys
until it ends: scancel it. It works on the machine that sealed the job, also by
the job's id if the file is gone.`,
		Example: `  cloister revoke analysis.sealed
  cloister revoke 3f0c51d2a8e94b6c9d7e1a2b3c4d5e6f`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.revoke(cmd.Context(), args[0]) },
	}
}

func (a *app) revoke(ctx context.Context, job string) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	r, err := findRecord(home, job)
	if errors.Is(err, jobs.ErrUnknown) {
		return advice.Refuse("revoke it on the machine, or with the CLOISTER_HOME, that sealed it", "%s: %w", job, err)
	}
	if err != nil {
		return err
	}
	f, err := site.Load(home, r.Cluster)
	if err != nil {
		return err
	}
	client, err := f.Client(0)
	if err != nil {
		return err
	}
	token, source, err := f.UserToken(home)
	if err != nil {
		return err
	}
	defer token.Wipe()
	done, err := sealing.Revoke(ctx, home, client, token, r, time.Now())
	if err != nil {
		return fmt.Errorf("%d tokens of job %s were revoked, then: %w", done.Revoked, r.Job, tokenFrom(source, err))
	}
	a.printf("job %s: %d tokens revoked, %d were gone\n", r.Job, done.Revoked, done.Gone)
	if done.Gone > 0 && r.Revoked.IsZero() {
		a.note("A token that is gone was used, or has expired: if the job runs, end it with scancel.\n")
	}
	return nil
}

// findRecord takes a sealed job's file or, if there is none of that name, its id.
func findRecord(home, job string) (*jobs.Record, error) {
	file, err := readSmall(job, sealed.MaxSize)
	if errors.Is(err, fs.ErrNotExist) && sealed.CheckJobID(job) == nil {
		return jobs.Get(home, job)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the sealed job: %w", err)
	}
	if _, err := sealed.Parse(file); err != nil {
		return nil, err
	}
	return recordOf(home, file)
}

// recordOf is the record of a sealed job's bytes.
func recordOf(home string, file []byte) (*jobs.Record, error) {
	sum := sha256.Sum256(file)
	return jobs.Find(home, hex.EncodeToString(sum[:]))
}
