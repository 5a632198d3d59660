package noded

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cloister/noded/cgroup"
	"cloister/policy"
)

// sleeping is a process that is killed, and waited for, by end.
func sleeping(t *testing.T, program string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command(program, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func started(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := startOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	ticks, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ticks
}

func TestAStepThatRunsKeepsASealedJobAwayAndOneThatEndedDoesNot(t *testing.T) {
	for _, name := range []string{"sleep", "a b) R 1 (c"} { // proc(5) has a program's name as it is
		program := filepath.Join(t.TempDir(), name)
		b, err := os.ReadFile("/bin/sleep")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program, b, 0o755); err != nil {
			t.Fatal(err)
		}
		pid, end := sleeping(t, program)
		p := passed{}
		if err := p.add(pid, 5); err != nil {
			t.Fatal(err)
		}
		if mine, its := started(t, os.Getpid()), started(t, pid); its < mine {
			t.Errorf("%s: started at %d, this test at %d", name, its, mine)
		}
		if id, found := p.running(); !found || id != 5 {
			t.Errorf("%s: while it runs: %d, %v", name, id, found)
		}
		end()
		if id, found := p.running(); found || len(p) != 0 {
			t.Errorf("%s: after its end: %d, %d kept", name, id, len(p))
		}
	}
}

func TestANumberThatAnotherProcessHasNowKeepsNoSealedJobAway(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	nobodys := cgroup.Job{ID: 7}
	d.passed[process{os.Getpid(), "1"}] = 5 // nothing of Slurm's starts one tick after boot
	if err := d.alone(nobodys); err != nil {
		t.Error(err)
	}
	if err := d.passed.add(os.Getpid(), 5); err != nil {
		t.Fatal(err)
	}
	if err := d.alone(nobodys); err == nil || !strings.Contains(err.Error(), "job 5 is on this node too") {
		t.Errorf("beside a step that runs: %v", err)
	}
}

// Whoever has the user's uid can start a step of a job as soon as Slurm has begun
// it: before the job's script has the node, that is an ordinary one.
func TestAStepOfTheJobItselfThatCameBeforeItsScriptKeepsItAway(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	cgroups(t)
	job := cgroup.Job{Scope: "/slurmstepd.scope", ID: 7}
	populate := func(step, populated string) {
		group := filepath.Join(cgroup.Root, job.Scope, "job_7", step)
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(group, "cgroup.events"), []byte("populated "+populated+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	populate("step_batch", "1")
	populate("step_extern", "1")
	populate("step_1", "0")
	if err := d.alone(job); err != nil {
		t.Errorf("with its script's own group: %v", err)
	}
	populate("step_0", "1") // a noded that was started since remembers no step
	if err := d.alone(job); err != errStepBefore {
		t.Errorf("with a step's processes: %v", err)
	}
	populate("step_0", "0")
	if err := d.passed.add(os.Getpid(), 7); err != nil { // its tasks are still to be started
		t.Fatal(err)
	}
	if err := d.alone(job); err != errStepBefore {
		t.Errorf("with a step's slurmstepd: %v", err)
	}
}

func TestStepsThatEndedDoNotPileUp(t *testing.T) {
	p := passed{}
	running, _ := sleeping(t, "sleep")
	if err := p.add(running, 5); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := p.add(os.Getpid(), 7); err != nil {
			t.Fatal(err)
		}
		p[process{os.Getpid(), fmt.Sprint("ended ", i)}] = 7
	}
	if len(p) > 3*looks {
		t.Errorf("%d are kept", len(p))
	}
	if _, found := p.running(); !found {
		t.Error("the one that runs is not found")
	}
	if err := p.add(1<<22+1, 5); err == nil { // beyond the kernel's PID_MAX_LIMIT
		t.Error("a process that is gone was added")
	}
}
