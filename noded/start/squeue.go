package start

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"cloister/noded"
	"cloister/sealed"
)

// maxRows bounds what is read of squeue's rows, and of its complaints, in
// bytes: a row has 49, and there is one for each task of the job's array.
const maxRows = 64 * sealed.MaxRuns

// Job asks squeue for three columns rather than scontrol for all of the job,
// whose name could look like any field there.
func (s slurm) Job(ctx context.Context, job uint32) (noded.SlurmJob, error) {
	var rows, complaints bounded
	c := exec.CommandContext(ctx, "squeue", "--all", "--states=all", "--noheader", "--jobs="+strconv.FormatUint(uint64(job), 10), "--Format=JobID:16,RestartCnt:16,State:16")
	c.Stdout, c.Stderr = &rows, &complaints
	if err := c.Run(); err != nil {
		return noded.SlurmJob{}, fmt.Errorf("squeue: %w: %s", err, strings.TrimSpace(complaints.b.String()))
	}
	j, err := find(rows.b.String(), job)
	if err != nil {
		return noded.SlurmJob{}, fmt.Errorf("squeue: %w", err)
	}
	return j, nil
}

var columns = regexp.MustCompile(`^([0-9]+) +([0-9]+) +([A-Z_]{1,16}) *\n?$`)

// find finds the one row of the job: asked for the job that an array is named
// after, squeue tells of the other tasks too. It takes nothing but rows of two
// numbers and a state.
func find(rows string, job uint32) (j noded.SlurmJob, err error) {
	found := 0
	for row := range strings.Lines(rows) {
		c := columns.FindStringSubmatch(row)
		if c == nil {
			return noded.SlurmJob{}, fmt.Errorf("%.64q is no row of two numbers and a state", row)
		}
		id, err := canonical(c[1])
		if err != nil {
			return noded.SlurmJob{}, err
		}
		count, err := canonical(c[2])
		if err != nil {
			return noded.SlurmJob{}, err
		}
		if id == job {
			j = noded.SlurmJob{Restarts: count, State: c[3]}
			found++
		}
	}
	if found != 1 {
		return noded.SlurmJob{}, fmt.Errorf("%d rows of job %d, not 1", found, job)
	}
	return j, nil
}

// canonical reads a number as Slurm prints it.
func canonical(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.16q is no number", s)
	}
	return uint32(n), nil
}

// bounded takes maxRows bytes.
type bounded struct{ b bytes.Buffer }

func (w *bounded) Write(p []byte) (int, error) {
	if w.b.Len()+len(p) > maxRows {
		return 0, errors.New("too long an answer")
	}
	return w.b.Write(p)
}
