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
		if id, found := p.other(7); !found || id != 5 {
			t.Errorf("%s: while it runs: %d, %v", name, id, found)
		}
		if _, found := p.other(5); found {
			t.Errorf("%s: its own job is another's", name)
		}
		end()
		if id, found := p.other(7); found || len(p) != 0 {
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
	if id, found := p.other(7); !found || id != 5 {
		t.Errorf("the one that runs: %d, %v", id, found)
	}
	if err := p.add(1<<22+1, 5); err == nil { // beyond the kernel's PID_MAX_LIMIT
		t.Error("a process that is gone was added")
	}
}
