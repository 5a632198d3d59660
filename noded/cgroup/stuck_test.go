package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// status and stat are what the kernel says of a thread, shortened.
func status(state, pending, shared string) string {
	return fmt.Sprintf("Name:\tperl\nState:\t%s\nThreads:\t2\nSigQ:\t1/7\nSigPnd:\t%s\nShdPnd:\t%s\n", state, pending, shared)
}

func stat(flags int) string { return fmt.Sprintf("12 (a) Z 4) D 1 12 12 0 -1 %d 3 0 0\n", flags) }

const (
	none = "0000000000000000"
	kill = "0000000000000100"
	term = "0000000000004000"
	// What the flags were without and with PF_EXITING, on kernel 6.18.
	usual, ending = 4194368, 4195404
)

var (
	sleeps  = [2]string{status("S (sleeping)", none, none), stat(usual)}
	zombie  = [2]string{status("Z (zombie)", none, none), stat(ending)}
	waits   = [2]string{status("D (disk sleep)", none, none), stat(usual)}
	killedD = [2]string{status("D (disk sleep)", kill, none), stat(usual)}
	exiting = [2]string{status("S (sleeping)", none, none), stat(ending)}
)

func TestAThreadThatWasKilledAndWaitsIsToldFromOthers(t *testing.T) {
	for _, c := range []struct {
		status, stat string
		want         state
	}{
		{killedD[0], killedD[1], held},
		{status("D (disk sleep)", none, kill), stat(usual), held},
		{status("I (idle)", none, kill), stat(usual), held}, // for the core dump that another one writes
		{exiting[0], exiting[1], held},
		{status("D (disk sleep)", none, none), stat(ending), held},
		{status("R (running)", none, none), stat(ending), held},
		{zombie[0], zombie[1], dead},
		{status("X (dead)", kill, none), stat(ending), dead},
		{waits[0], waits[1], alive},
		{status("D (disk sleep)", term, none), stat(usual), alive},
		{status("S (sleeping)", kill, none), stat(usual), alive},
		{sleeps[0], sleeps[1], alive},
		{"Name:\tSigPnd: 100\nState:\tD (disk sleep)\n", stat(usual), alive},
		{sleeps[0], "12 (4 4 4 4 4 4 4 4) S 1", alive},
		{sleeps[0], "", alive},
		{"", "", alive},
	} {
		if got := judge(c.status, c.stat); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.status, c.stat, got, c.want)
		}
	}
}

// running has a job of processes, each made of these threads.
func running(t *testing.T, processes ...[][2]string) Job {
	t.Helper()
	j := fake(t, "1")
	old := proc
	proc = t.TempDir()
	t.Cleanup(func() { proc = old })
	write := func(path, what string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(what), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := ""
	for i, threads := range processes {
		pid := strconv.Itoa(100 * (i + 1))
		all += pid + "\n"
		for n, texts := range threads {
			dir := filepath.Join(proc, pid, "task", strconv.Itoa(100*(i+1)+n))
			write(dir+"/status", texts[0])
			write(dir+"/stat", texts[1])
			write(dir+"/wchan", []string{"0", "do_wait", "request_wait_answer"}[min(n, 2)])
			if n == 0 { // as the kernel has it, a process's own files are its first thread's
				write(filepath.Join(proc, pid, "status"), texts[0])
			}
		}
	}
	write(filepath.Join(j.dir(), "step_batch", "user", "task_0", "cgroup.procs"), all)
	return j
}

func TestAJobIsStuckOnlyWhenNoneOfItsThreadsLives(t *testing.T) {
	for _, c := range []struct {
		name      string
		processes [][][2]string
		want      bool
	}{
		{"no process", nil, false},
		{"a process that is gone", [][][2]string{{}}, false},
		{"one thread", [][][2]string{{killedD}}, true},
		{"the first thread dead", [][][2]string{{zombie, killedD}}, true},
		{"the first thread dead, another one alive", [][][2]string{{zombie, killedD, sleeps}}, false},
		{"the first thread waits, another one lives", [][][2]string{{killedD, sleeps}}, false},
		{"not killed", [][][2]string{{zombie, waits}}, false},
		{"a zombie", [][][2]string{{zombie}}, false},
		{"a zombie after one", [][][2]string{{zombie, killedD}, {zombie}}, true},
		{"one that ends", [][][2]string{{zombie, exiting}, {zombie}}, true},
		{"another process lives", [][][2]string{{killedD}, {sleeps}}, false},
		{"another process lived first", [][][2]string{{sleeps}, {killedD}}, false},
	} {
		j := running(t, c.processes...)
		if stuck, err := j.Stuck(); err != nil || stuck != c.want {
			t.Errorf("%s: %v, %v, want %v", c.name, stuck, err, c.want)
		}
		j.ID = 99
		if stuck, err := j.Stuck(); err != nil || stuck {
			t.Errorf("a job without a group: %v, %v", stuck, err)
		}
	}
}

func TestThisProcessIsNotStuck(t *testing.T) {
	j := fake(t, "1")
	procs := filepath.Join(j.dir(), "step_batch", "user", "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if stuck, err := j.Stuck(); err != nil || stuck {
		t.Errorf("%v, %v", stuck, err)
	}
}

func TestWhatIsLeftIsToldByTheThreadsThatWait(t *testing.T) {
	j := running(t, [][2]string{zombie, killedD, killedD, killedD}, [][2]string{zombie})
	if got, want := j.left(), "process 100 in do_wait and request_wait_answer, process 200 in 0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := strings.Join(few(strings.Fields("a b c d e f g")), " "); got != "a b c d e 2 more" {
		t.Errorf("%q", got)
	}
}
