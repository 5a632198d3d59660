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

	"cloister/sealed"
)

// maxRows bounds what is read of squeue's rows, and of its complaints, in
// bytes: a row has 33, and there is one for each task of the job's array.
const maxRows = 64 * sealed.MaxRuns

// Restarts asks squeue for two columns rather than scontrol for all of the job,
// whose name could look like any field there.
func (s slurm) Restarts(ctx context.Context, job uint32) (uint32, error) {
	var rows, complaints bounded
	c := exec.CommandContext(ctx, "squeue", "--all", "--noheader", "--jobs="+strconv.FormatUint(uint64(job), 10), "--Format=JobID:16,RestartCnt:16")
	c.Stdout, c.Stderr = &rows, &complaints
	if err := c.Run(); err != nil {
		return 0, fmt.Errorf("squeue: %w: %s", err, strings.TrimSpace(complaints.b.String()))
	}
	n, err := restarts(rows.b.String(), job)
	if err != nil {
		return 0, fmt.Errorf("squeue: %w", err)
	}
	return n, nil
}

var twoNumbers = regexp.MustCompile(`^([0-9]+) +([0-9]+) *\n?$`)

// restarts finds the one row of the job: asked for the job that an array is
// named after, squeue tells of the other tasks too. It takes nothing but rows of
// two numbers.
func restarts(rows string, job uint32) (n uint32, err error) {
	found := 0
	for row := range strings.Lines(rows) {
		columns := twoNumbers.FindStringSubmatch(row)
		if columns == nil {
			return 0, fmt.Errorf("%.64q is no row of two numbers", row)
		}
		id, err := canonical(columns[1])
		if err != nil {
			return 0, err
		}
		count, err := canonical(columns[2])
		if err != nil {
			return 0, err
		}
		if id == job {
			n = count
			found++
		}
	}
	if found != 1 {
		return 0, fmt.Errorf("%d rows of job %d, not 1", found, job)
	}
	return n, nil
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
