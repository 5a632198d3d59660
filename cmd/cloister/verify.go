package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"cloister/client/advice"
	"cloister/client/jobs"
	"cloister/client/signing"
	"cloister/sealed"
	"cloister/sealed/signers"
	"cloister/site"

	"github.com/spf13/cobra"
)

func newVerify(a *app) *cobra.Command {
	var allowed, cluster string
	c := &cobra.Command{
		Use:   "verify JOB.sealed",
		Short: "Check a sealed job and say what it may do",
		Long: `verify checks the form of a sealed job, that you signed every byte of it, that it
has not expired and that its cluster is one of yours, and says in words what it
may do. The job itself is encrypted to the nodes: its cluster and what it may do
are told from the record that seal kept on this machine, which also knows whether
you revoked it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.verify(args[0], allowed, cluster) },
	}
	c.Flags().StringVar(&allowed, "signers", "", "check against this allowed_signers `FILE` instead of your own key")
	c.Flags().StringVar(&cluster, "site", "", "refuse a job for another `CLUSTER`")
	return c
}

func (a *app) verify(path, allowed, cluster string) error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	file, err := readSmall(path, sealed.MaxSize)
	if err != nil {
		return fmt.Errorf("reading the sealed job: %w", err)
	}
	e, err := sealed.Parse(file)
	if err != nil {
		return err
	}
	list, err := signersFor(home, allowed)
	if err != nil {
		return err
	}
	now := time.Now()
	signer, err := e.Verify(list, now)
	if errors.Is(err, sealed.ErrUnknownSigner) && allowed == "" {
		return advice.Refuse("to check somebody else's, give the allowed_signers file with --signers", "this job is not signed by you: %w", err)
	}
	if err != nil {
		return err
	}
	a.printf("%s is a sealed job, format %d, %s\n", path, sealed.Format, size(int64(len(file))))
	a.printf("  signed by    %s (%s), unaltered\n", signer.Fingerprint, signer.Users)
	for i, l := range e.SBATCH() {
		a.printf("  %-12s %s\n", map[bool]string{true: "Slurm reads"}[i == 0], l)
	}
	r, err := recordOf(home, file)
	if errors.Is(err, jobs.ErrUnknown) {
		a.validUntil(e.Notice().Expires, now)
		a.note("It was not sealed on this machine: what it may do is encrypted to the nodes.\n")
		if err := e.Notice().CheckTime(now); err != nil || cluster == "" {
			return err
		}
		return advice.Refuse("verify it on the machine, or with the CLOISTER_HOME, that sealed it", "%s: its cluster is encrypted to the nodes: nothing here says that it is %s", path, cluster)
	}
	if err != nil {
		return err
	}
	a.describe(path, r, now)
	return checkRecord(home, r, cluster, now)
}

// checkRecord applies the checks that a node would, and refuses a revoked job.
func checkRecord(home string, r *jobs.Record, cluster string, now time.Time) error {
	if !r.Revoked.IsZero() {
		return advice.Refuse("seal the script again", "you revoked job %s: no node will run it", r.Job)
	}
	m := &sealed.Manifest{Cluster: r.Cluster, Class: r.Class, Created: r.Created, Expires: r.Expires}
	if err := m.CheckTime(now); err != nil {
		return err
	}
	if cluster != "" {
		if err := m.CheckPlace(cluster, r.Class); err != nil {
			return err
		}
	}
	_, err := site.Load(home, r.Cluster)
	return err
}

func (a *app) validUntil(t, now time.Time) {
	a.printf("  valid until  %s (%s)\n", t.Format("2006-01-02 15:04 MST"), left(t.Sub(now)))
}

func (a *app) describe(file string, r *jobs.Record, now time.Time) {
	a.printf("  job          %s\n", r.Job)
	a.printf("  for          user %s, %s nodes of cluster %s\n", r.User, r.Class, r.Cluster)
	if !r.Revoked.IsZero() {
		a.printf("  revoked      %s\n", r.Revoked.Format("2006-01-02 15:04 MST"))
	}
	a.validUntil(r.Expires, now)
	if r.Runs != nil {
		a.printf("  runs         %s\n", describeRuns(r.Runs))
	}
	a.printf("It may\n")
	for _, v := range r.Volumes {
		altered := "where an altered sector is an error"
		if !v.Authenticated {
			altered = "where nobody notices what others alter"
		}
		switch {
		case v.Create:
			each := ""
			if r.Runs != nil {
				each = " in each run"
			}
			a.printf("  make and write the volume %s at %s, at most %s%s, %s\n", v.Path, v.Mount, size(v.Size), each, altered)
		case v.Mode == sealed.ReadWrite:
			a.printf("  read and write the volume %s at %s, %s\n", v.Path, v.Mount, altered)
		default:
			a.printf("  read the volume %s at %s, where a changed byte is an error\n", v.Path, v.Mount)
		}
	}
	switch {
	case r.Image == nil:
	case r.Image.SHA256 == "":
		a.printf("  run the image %s, which lies in a volume\n", r.Image.Path)
	default:
		a.printf("  run the image %s with SHA-256 %s\n", r.Image.Path, r.Image.SHA256)
	}
	for _, name := range r.Files {
		a.printf("  read the secret %s/%s\n", sealed.SecretPlace, name)
	}
	a.printf("  write its output to %s\n", r.Stdout)
	if len(r.Arguments) > 0 {
		a.printf("  take the arguments %q\n", r.Arguments)
	}
	if len(r.Variables) > 0 {
		a.printf("  see the variables %s\n", strings.Join(r.Variables, ", "))
	}
	a.printf("and write nowhere else that lasts.\n")
	if r.Revoked.IsZero() {
		a.printf("Submit it with: %s\n", submitLine(file, r.Arguments))
	}
}

func left(d time.Duration) string {
	switch {
	case d <= 0:
		return "expired"
	case d < time.Hour:
		return fmt.Sprintf("%d minutes left", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours left", int(d.Hours()))
	}
	return fmt.Sprintf("%d days left", int(d.Hours())/24)
}

// signersFor reads an allowed_signers file, or makes one of the user's own key.
func signersFor(home, file string) (*signers.List, error) {
	if file == "" {
		config, err := signing.Load(home)
		if err != nil {
			return nil, err
		}
		return signers.Parse([]byte(config.Line() + "\n"))
	}
	b, err := readSmall(file, signers.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading allowed_signers: %w", err)
	}
	list, err := signers.Parse(b)
	if err != nil {
		return nil, advice.Refuse("correct that line, see ssh-keygen(1), ALLOWED SIGNERS", "%s: %w", file, err)
	}
	return list, nil
}

// readSmall reads one byte more than the limit at most: the parsers refuse it.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
