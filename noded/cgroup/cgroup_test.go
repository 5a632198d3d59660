package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fake lays out a hierarchy as slurmd does, in ordinary files.
func fake(t *testing.T, populated string) Job {
	t.Helper()
	old := Root
	Root = t.TempDir()
	t.Cleanup(func() { Root = old })
	j := Job{Scope: "/system.slice/slurmstepd.scope", ID: 7}
	user := filepath.Join(j.dir(), "step_batch", "user")
	for _, d := range []string{user, filepath.Join(Root, j.Scope, "job_12"), filepath.Join(Root, j.Scope, "job_13"), filepath.Join(Root, j.Scope, "system")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for dir, populated := range map[string]string{user: populated, filepath.Join(Root, j.Scope, "job_12"): "1", filepath.Join(Root, j.Scope, "job_13"): "0"} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.events"), []byte("populated "+populated+"\nfrozen 0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func TestOthersNamesEveryJobButTheOwnAndThoseThatAreGone(t *testing.T) {
	got, err := fake(t, "0").Others()
	if err != nil || !slices.Equal(got, []uint32{12}) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestAJobWhoseTasksSlurmFrozeIsFrozen(t *testing.T) {
	j := fake(t, "1")
	for _, want := range []bool{false, true} {
		if frozen, err := j.Frozen(); err != nil || frozen != want {
			t.Errorf("frozen %v, %v, want %v", frozen, err, want)
		}
		if err := os.WriteFile(filepath.Join(j.dir(), "step_batch", "user", "cgroup.events"), []byte("populated 1\nfrozen 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	j.ID = 99
	if frozen, err := j.Frozen(); err != nil || frozen {
		t.Errorf("a job without a group: %v, %v", frozen, err)
	}
}

func TestKillWritesToTheUsersGroupAndSaysWhenSomethingSurvives(t *testing.T) {
	j := fake(t, "1")
	self := strconv.Itoa(os.Getpid())
	if err := os.WriteFile(filepath.Join(j.dir(), "step_batch", "user", "cgroup.procs"), []byte(strings.Repeat(self+"\n", 7)), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := j.Kill(ctx)
	if err == nil {
		t.Fatal("a group that stays populated was reported as ended")
	}
	if n := strings.Count(err.Error(), "process "+self+" in "); n != 5 || !strings.Contains(err.Error(), "2 more") {
		t.Errorf("of the processes that are left it says: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(j.dir(), "step_batch", "user", "cgroup.kill")); err != nil || string(b) != "1" {
		t.Fatalf("cgroup.kill holds %q, %v", b, err)
	}
}

func TestKillOfAnEmptyOrAbsentJobSucceeds(t *testing.T) {
	j := fake(t, "0")
	if err := j.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	j.ID = 99
	if err := j.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestStepsThatDoNotEndAreKilledAndTheBatchScriptsSlurmstepdIsNot(t *testing.T) {
	j := fake(t, "0")
	for _, step := range []string{"step_batch", "step_extern", "step_0", "step_12"} {
		if err := os.MkdirAll(filepath.Join(j.dir(), step), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(j.dir(), step, "cgroup.events"), []byte("populated 1\nfrozen 0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepGrace+200*time.Millisecond)
	defer cancel()
	if err := j.EndSteps(ctx); err == nil {
		t.Fatal("steps that stay were reported as ended")
	}
	for step, want := range map[string]bool{"step_batch": false, "step_extern": false, "step_0": true, "step_12": true} {
		if _, err := os.Stat(filepath.Join(j.dir(), step, "cgroup.kill")); (err == nil) != want {
			t.Errorf("%s: killed %v, want %v", step, err == nil, want)
		}
	}
	j.ID = 99
	if err := j.EndSteps(context.Background()); err != nil {
		t.Errorf("a job without steps: %v", err)
	}
}

func TestAProcessOutsideSlurmHasNoJob(t *testing.T) {
	if _, err := OfStepd(os.Getpid(), 1); err == nil {
		t.Fatal("this test process was taken for slurmstepd")
	}
}
