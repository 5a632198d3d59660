package start

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/noded"
)

func TestTheRowOfTheJobIsFoundAmongThoseOfItsArray(t *testing.T) {
	for _, c := range []struct {
		rows string
		want uint32
	}{
		{"17              0               RUNNING         \n", 0},
		{"17              3               RUNNING         \n", 3},
		{"18              1               PENDING         \n17              2               RUNNING         \n19              0               RUNNING         \n", 2},
		{"17 4294967295 RUNNING", 4294967295},
	} {
		if got, err := find(c.rows, 17); err != nil || got != (noded.SlurmJob{Restarts: c.want, State: "RUNNING"}) {
			t.Errorf("%q: %+v, %v", c.rows, got, err)
		}
	}
}

// odd are answers that say nothing of job 17 for certain.
var odd = []string{
	"", "\n", "18 0 RUNNING\n", "17\n", "17 \n", "17 0\n", "17 0 0\n", "17 0 RUNNING 0\n", "17 0 RUNNING\n17 1 RUNNING\n", "17 0 RUNNING\n\n17 1 RUNNING\n",
	"17 -1 RUNNING\n", "17 +1 RUNNING\n", "17 01 RUNNING\n", "17 0x1 RUNNING\n", "17 1.0 RUNNING\n", "17 N/A RUNNING\n", "17 4294967296 RUNNING\n",
	"017 1 RUNNING\n", "17_1 1 RUNNING\n", "17 0 RUNNING\nslurm_load_jobs error: Invalid job id\n", "17 0 RUNNING\x00\n", "17 0 RUNNING\n18 x RUNNING\n",
	"17\u00a00 RUNNING\n", "17\t0 RUNNING\n", "17 0 RUNNING\r\n", " 17 0 RUNNING\n", "17 0 running\n", "17 0 RUNNING,COMPLETING\n", "17 0 AVERYLONGSTATEINDEED\n",
}

func TestAnOddAnswerIsNone(t *testing.T) {
	for _, rows := range odd {
		if j, err := find(rows, 17); err == nil {
			t.Errorf("%q: %+v", rows, j)
		}
	}
}

func FuzzJob(f *testing.F) {
	f.Add("17              2               RUNNING         \n18              0               PENDING         \n")
	for _, rows := range odd {
		f.Add(rows)
	}
	f.Fuzz(func(t *testing.T, rows string) {
		j, err := find(rows, 17)
		if err == nil && !strings.Contains(strings.Join(strings.Fields(rows), " "), fmt.Sprintf("17 %d %s", j.Restarts, j.State)) {
			t.Errorf("%q: %+v", rows, j)
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
	squeue(t, `[ "$*" = "--all --states=all --noheader --jobs=17 --Format=JobID:16,RestartCnt:16,State:16" ] && echo "17 5 RUNNING"; echo noise >&2`)
	if n, err := (slurm{}).Job(t.Context(), 17); err != nil || n.Restarts != 5 {
		t.Errorf("%+v, %v", n, err)
	}
	squeue(t, `echo "17 5 RUNNING"; echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1`)
	if n, err := (slurm{}).Job(t.Context(), 17); err == nil || !strings.Contains(err.Error(), "Unable to contact") {
		t.Errorf("%+v, %v", n, err)
	}
	squeue(t, `while :; do echo "18 5 RUNNING"; done`)
	if n, err := (slurm{}).Job(t.Context(), 17); err == nil {
		t.Errorf("an answer without end: %+v", n)
	}
	squeue(t, `exec sleep 60`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if n, err := (slurm{}).Job(ctx, 17); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("no answer: %+v after %s", n, time.Since(began))
	}
}
