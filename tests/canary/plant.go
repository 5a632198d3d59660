package canary

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"cloister/tests/canary/search"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// A planted value has two companions that are written only compressed.
type planted struct {
	value, gzip, zstd string
	forms             []string // in which it is written in its place; gzip and zstd with all of them
}

// textForms are those that fit on a line of text.
var textForms = slices.DeleteFunc(slices.Clone(search.Forms), func(f string) bool { return strings.HasPrefix(f, "utf-16") })

func newPlanted(text bool) planted {
	p := planted{value: word(), forms: slices.DeleteFunc(slices.Clone(search.Forms), func(f string) bool {
		return strings.HasPrefix(f, "base64url") // for letters it is what base64 is
	})}
	if text {
		p.forms = slices.DeleteFunc(p.forms, func(f string) bool { return !slices.Contains(textForms, f) })
	} else {
		p.gzip, p.zstd = word(), word()
	}
	return p
}

// line has the value in each form.
func (p planted) line() string {
	var b strings.Builder
	for _, f := range p.forms {
		b.WriteString(" ")
		b.Write(search.Encode(f, []byte(p.value)))
	}
	return b.String()
}

// blob is the line, then the compressed companions: less than a page, so that memory and disk keep it together.
func (p planted) blob(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(p.line() + "\n\n")
	z := gzip.NewWriter(&b)
	z.Write([]byte(p.gzip))
	if err := z.Close(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "zstd", "-cq")
	cmd.Stdin = strings.NewReader(p.zstd)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	b.Write(out)
	if b.Len() > 4096 {
		return nil, fmt.Errorf("%d bytes to plant do not fit a page", b.Len())
	}
	return b.Bytes(), nil
}

// plant puts the values of all places where they belong. It returns when they are there.
func plant(ctx context.Context, s *deploy.Site, places []*place) error {
	for _, p := range places {
		if err := p.plant(ctx, s, p.planted); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func plantFile(node, file string) func(context.Context, *deploy.Site, planted) error {
	return func(ctx context.Context, s *deploy.Site, p planted) error {
		b, err := p.blob(ctx)
		if err != nil {
			return err
		}
		return s.PutBytes(ctx, node, b, file, 0o600)
	}
}

// plantMessage logs the line as a service would.
func plantMessage(node string) func(context.Context, *deploy.Site, planted) error {
	return func(ctx context.Context, s *deploy.Site, p planted) error {
		_, err := s.Output(ctx, node, "logger -t canary && journalctl --sync", cluster.Stdin([]byte(p.line()+"\n")))
		return err
	}
}

// plantJob submits a job that waits for ever, with the line as its comment, and waits until slurmctld saved it.
func plantJob(ctx context.Context, s *deploy.Site, p planted) error {
	out, err := s.OutputAs(ctx, who, cluster.Login, fmt.Sprintf("timeout 60 sbatch -H -o /dev/null --comment '%s' --wrap true", p.line()))
	if err != nil {
		return err
	}
	if _, err := deploy.JobNumber(out); err != nil {
		return err
	}
	for range 60 {
		r, err := s.Run(ctx, cluster.Head, "grep -q "+p.value+" /var/spool/slurmctld/job_state")
		if err != nil || r.Exit == 0 {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
	return fmt.Errorf("slurmctld did not save the job %s", out)
}

// plantTraffic sends the blob from one node to another over TCP. The file server's port takes connections; what it
// makes of the bytes does not matter.
func plantTraffic(ctx context.Context, s *deploy.Site, p planted) error {
	if err := plantFile(cluster.Login, "/run/planted")(ctx, s, p); err != nil {
		return err
	}
	_, err := s.Output(ctx, cluster.Login, "timeout 30 bash -c 'cat /run/planted > /dev/tcp/"+cluster.Address(cluster.Head)+"/2049' || true") // the server may hang up
	return err
}
