package start

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheRowOfTheJobIsFoundAmongThoseOfItsArray(t *testing.T) {
	for _, c := range []struct {
		rows string
		want uint32
	}{
		{"17              0               \n", 0},
		{"17              3               \n", 3},
		{"18              1               \n17              2               \n19              0               \n", 2},
		{"17 4294967295", 4294967295},
	} {
		if got, err := restarts(c.rows, 17); err != nil || got != c.want {
			t.Errorf("%q: %d, %v", c.rows, got, err)
		}
	}
}

// odd are answers that say nothing of job 17 for certain.
var odd = []string{
	"", "\n", "18 0\n", "17\n", "17 \n", "17 0 0\n", "17 0\n17 1\n", "17 0\n\n17 1\n", "17 -1\n", "17 +1\n", "17 01\n", "17 0x1\n", "17 1.0\n", "17 N/A\n",
	"17 4294967296\n", "017 1\n", "17_1 1\n", "17 0\nslurm_load_jobs error: Invalid job id\n", "17 0\x00\n", "17 0\n18 x\n", "17\u00a00\n", "17\t0\n", "17 0\r\n", " 17 0\n",
}

func TestAnOddAnswerIsNone(t *testing.T) {
	for _, rows := range odd {
		if n, err := restarts(rows, 17); err == nil {
			t.Errorf("%q: %d", rows, n)
		}
	}
}

func FuzzRestarts(f *testing.F) {
	f.Add("17              2               \n18              0               \n")
	for _, rows := range odd {
		f.Add(rows)
	}
	f.Fuzz(func(t *testing.T, rows string) {
		n, err := restarts(rows, 17)
		if err == nil && !strings.Contains(strings.Join(strings.Fields(rows), " "), fmt.Sprintf("17 %d", n)) {
			t.Errorf("%q: %d", rows, n)
		}
	})
}

// squeue puts a shell script in squeue's place.
func squeue(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "squeue"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestSlurmIsAskedOnceAndNotForLong(t *testing.T) {
	squeue(t, `[ "$*" = "--all --noheader --jobs=17 --Format=JobID:16,RestartCnt:16" ] && echo "17 5"; echo noise >&2`)
	if n, err := (slurm{}).Restarts(t.Context(), 17); err != nil || n != 5 {
		t.Errorf("%d, %v", n, err)
	}
	squeue(t, `echo "17 5"; echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1`)
	if n, err := (slurm{}).Restarts(t.Context(), 17); err == nil || !strings.Contains(err.Error(), "Unable to contact") {
		t.Errorf("%d, %v", n, err)
	}
	squeue(t, `while :; do echo "18 5"; done`)
	if n, err := (slurm{}).Restarts(t.Context(), 17); err == nil {
		t.Errorf("an answer without end: %d", n)
	}
	squeue(t, `exec sleep 60`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if n, err := (slurm{}).Restarts(ctx, 17); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("no answer: %d after %s", n, time.Since(began))
	}
}
