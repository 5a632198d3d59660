package noded

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"cloister/noded/handoff"
	"cloister/policy"
	"cloister/sealed"
)

// requeuing is a Slurm that says how often it has requeued every job.
type requeuing struct {
	countedSlurm
	times uint32
	state string
	err   error
	asked int
}

func (s *requeuing) Job(ctx context.Context, _ uint32) (SlurmJob, error) {
	if _, ok := ctx.Deadline(); !ok {
		return SlurmJob{}, errors.New("asked without a deadline")
	}
	s.asked++
	return SlurmJob{s.times, s.state}, s.err
}

const noTask = uint32(noVal)

func considered(runs *sealed.Runs, arrayJob, arrayTask uint32) *admission {
	m := &sealed.Manifest{Job: strings.Repeat("0", 32), Runs: runs, Volumes: []sealed.Volume{{Path: "r-%a-%r.luks", Mode: sealed.ReadWrite, Create: true}}}
	for range runs.Count() {
		m.Tokens = append(m.Tokens, "s."+strings.Repeat("x", len(m.Tokens)))
	}
	return &admission{whole: m, request: &handoff.Request{Job: 18, ArrayJob: arrayJob, ArrayTask: arrayTask}}
}

func TestALaunchIsOneOfTheRunsThatWereSealed(t *testing.T) {
	array, again, both := &sealed.Runs{Tasks: []uint32{0, 3}, Attempts: 1}, &sealed.Runs{Attempts: 3}, &sealed.Runs{Tasks: []uint32{0, 3}, Attempts: 2}
	for _, c := range []struct {
		runs            *sealed.Runs
		arrayJob, task  uint32
		restarts        uint32
		id, token, file string
		asked           int
	}{
		{nil, 0, noTask, 9, "", "s.", "", 0},
		{nil, noVal, noTask, 9, "", "s.", "", 0},
		{array, 17, 0, 9, "_0", "s.", "r-0-0.luks", 0},
		{array, 17, 3, 9, "_3", "s.x", "r-3-0.luks", 0},
		{again, 0, noTask, 0, "", "s.", "r-0-0.luks", 1},
		{again, 0, noTask, 2, "r2", "s.xx", "r-0-2.luks", 1},
		{both, 17, 3, 1, "_3r1", "s.xxx", "r-3-1.luks", 1},
	} {
		d, _ := idleDaemon("")
		slurm := &requeuing{times: c.restarts}
		d.slurm = slurm
		a := considered(c.runs, c.arrayJob, c.task)
		if err := d.chooseRun(t.Context(), a); err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if a.id() != a.whole.Job+c.id || a.manifest.Tokens[0] != c.token || slurm.asked != c.asked || c.file != "" && a.manifest.Volumes[0].Path != c.file {
			t.Errorf("%+v: run %s, token %q, file %q, asked %d times", c, a.id(), a.manifest.Tokens, a.manifest.Volumes[0].Path, slurm.asked)
		}
	}
}

func TestWhatSlurmSaysNeverLeadsBeyondTheRunsThatWereSealed(t *testing.T) {
	array, again := &sealed.Runs{Tasks: []uint32{1, 3}, Attempts: 1}, &sealed.Runs{Attempts: 2}
	for name, c := range map[string]struct {
		runs           *sealed.Runs
		arrayJob, task uint32
		slurm          requeuing
		cause          string
	}{
		"another task":           {array, 17, 2, requeuing{}, "task 2 is none of those"},
		"an array without tasks": {array, 17, noTask, requeuing{}, "is none of those"},
		"no array":               {array, 0, 1, requeuing{}, "submitted as none"},
		"an array of one job":    {nil, 17, 1, requeuing{}, "submitted as an array"},
		"one attempt too many":   {again, 0, noTask, requeuing{times: 2}, "requeued this job 2 times, it was sealed for 1"},
		"many attempts":          {again, 0, noTask, requeuing{times: 1<<32 - 1}, "it was sealed for 1"},
		"no answer":              {again, 0, noTask, requeuing{err: errors.New("squeue: exit status 1")}, "does not say how often"},
	} {
		d, _ := idleDaemon("")
		d.slurm = &c.slurm
		a := considered(c.runs, c.arrayJob, c.task)
		err := d.chooseRun(t.Context(), a)
		var r *sealed.Refusal
		if !errors.As(err, &r) || !strings.Contains(r.Cause, c.cause) || r.Next == "" || a.manifest != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnArraysVariablesAreThoseThatWereSealed(t *testing.T) {
	a := considered(&sealed.Runs{Tasks: []uint32{2, 3, 7}, Attempts: 1}, 17, 3)
	a.run = sealed.Run{Task: 3}
	want := map[string]string{"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_MAX": "7"}
	if got := a.arrayVariables(); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := considered(nil, 0, noTask).arrayVariables(); got != nil {
		t.Errorf("a job that is no array has %v", got)
	}
}

func TestWhoseJobRanBeforeReadsWhichRunItWas(t *testing.T) {
	a := considered(&sealed.Runs{Tasks: []uint32{1, 3}, Attempts: 2}, 17, 3)
	a.run = sealed.Run{Task: 3, Attempt: 1}
	if err := a.ranBefore(); !strings.Contains(err.Error(), "attempt 1 of task 3 of this sealed job has already run here") {
		t.Error(err)
	}
	var r *sealed.Refusal
	if err := considered(nil, 0, noTask).ranBefore(); !errors.As(err, &r) || !strings.Contains(r.Next, "requeue=1") {
		t.Error(err)
	}
}

func TestAJobThatEndedWhileItWasAdmittedDoesNotStart(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	for state, starts := range map[string]bool{"RUNNING": true, "SUSPENDED": true, "COMPLETING": false, "CANCELLED": false, "PENDING": false, "TIMEOUT": false} {
		d.slurm = &requeuing{state: state}
		if err := d.stillWanted(t.Context(), 18); (err == nil) != starts {
			t.Errorf("a job that is %s: %v", state, err)
		}
	}
	d.slurm = &requeuing{err: errors.New("no controller")}
	if err := d.stillWanted(t.Context(), 18); err != nil {
		t.Errorf("without an answer: %v", err)
	}
}
