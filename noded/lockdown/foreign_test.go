//go:build !guest

package lockdown

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside is set in the copy of this test that runs as the first process of a
// PID namespace, where it can kill nobody else's processes.
const inside = "CLOISTER_TEST_INSIDE"

// namespaced runs do as the first process of a PID namespace.
func namespaced(t *testing.T, do func(*testing.T)) {
	t.Helper()
	if os.Getenv(inside) != "" {
		ownProc(t)
		do(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("in a PID namespace (this test must run as root): %v\n%s", err, out)
	}
}

func ownProc(t *testing.T) {
	t.Helper()
	if os.Getpid() != 1 {
		t.Fatal("not the first process of a PID namespace")
	}
	for _, m := range [][2]string{{"", "/"}, {"proc", "/proc"}} {
		flags := uintptr(unix.MS_REC | unix.MS_PRIVATE)
		if m[0] != "" {
			flags = 0
		}
		if err := unix.Mount(m[0], m[1], m[0], flags, ""); err != nil {
			t.Fatalf("mounting %s: %v", m[1], err)
		}
	}
}

func TestForeignProcessesEndAndOthersLive(t *testing.T) { namespaced(t, endForeignInside) }

func endForeignInside(t *testing.T) {
	start := func(uid uint32, script string) *exec.Cmd {
		c := exec.Command("/bin/sh", "-c", script)
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	ended := map[string]*exec.Cmd{
		"the job's user's":              start(2001, "exec sleep 60"),
		"another person's":              start(2002, "exec sleep 60"),
		"one that ignores signals":      start(2001, "trap '' TERM HUP INT; while :; do sleep 60; done"),
		"one that forks":                start(2001, "while :; do sleep 0.01 & sleep 0.01; done"),
		"a container's subordinate uid": start(131070000, "exec sleep 60"),
		"the user of a low number":      start(500, "exec sleep 60"),
	}
	kept := map[string]*exec.Cmd{
		"root's":            start(0, "exec sleep 60"),
		"a service's":       start(101, "exec sleep 60"),
		"a dynamic user's":  start(61200, "exec sleep 60"),
		"nobody's (65534's": start(65534, "exec sleep 60"),
	}
	time.Sleep(200 * time.Millisecond)
	done := make(chan string, len(ended)+len(kept))
	wait := func(m map[string]*exec.Cmd) {
		for name, c := range m {
			go func() { c.Wait(); done <- name }()
		}
	}
	wait(ended)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	killed, err := EndForeign(ctx, 500, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(killed) < len(ended) {
		t.Errorf("reported %v", killed)
	}
	for range ended {
		select {
		case <-done:
		case <-ctx.Done():
			t.Fatal("some of the foreign processes live on")
		}
	}
	for name, c := range kept {
		if err := c.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("%s process ended: %v", name, err)
		}
		c.Process.Kill()
	}
}

// threads is set in a copy of this test that is to leave its first thread.
const threads = "CLOISTER_TEST_THREADS"

func init() {
	if os.Getenv(threads) != "" {
		// In an init function this is the first thread, of several by now.
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

// A process whose first thread ended has the state of one that ended.
func TestAProcessWhoseFirstThreadEndedIsEnded(t *testing.T) { namespaced(t, endHeadless) }

func endHeadless(t *testing.T) {
	held, end := heldOpen(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{threads + "=1"}
	cmd.ExtraFiles = []*os.File{held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 2001, Gid: 2001}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	held.Close()
	status := fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)
	limit := time.Now().Add(20 * time.Second)
	for b := []byte(nil); !bytes.Contains(b, []byte("State:\tZ")); time.Sleep(time.Millisecond) {
		var err error
		if b, err = os.ReadFile(status); err != nil || time.Now().After(limit) {
			t.Fatalf("%s, %v", b, err)
		}
	}
	if _, err := EndForeign(soon(t), 500, ""); err != nil {
		t.Fatal(err)
	}
	end()
}

// heldOpen is a descriptor for processes to inherit, and a function that fails
// the test unless all that had it have ended.
func heldOpen(t *testing.T) (*os.File, func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return w, func() {
		t.Helper()
		r.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a process lives on: %v", err)
		}
	}
}

// Each process of it lives for less than a look at all takes. Without control
// groups nothing can end it but luck.
func TestAProcessThatForksAndEndsInTurnIsNotMissed(t *testing.T) { namespaced(t, endHopping) }

func endHopping(t *testing.T) {
	for range 200 { // so that a look takes as long as on a node
		if err := exec.Command("/bin/sleep", "600").Start(); err != nil {
			t.Fatal(err)
		}
	}
	for range 6 {
		held, end := heldOpen(t)
		cmd := exec.Command("/usr/bin/perl", "-e", "while (1) { exit if fork }")
		cmd.ExtraFiles = []*os.File{held}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 2001, Gid: 2001}}
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		held.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		reaped := reap(ctx)
		if _, err := EndForeign(ctx, 500, ""); err == nil {
			end()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		<-reaped
	}
}

// reap waits for whatever ends, as a node's first process does, until ctx ends.
func reap(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if pid, _ := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	return done
}

// A user with subordinate groups can be in as many as setgroups(2) takes.
func TestAProcessOfManyGroupsKeepsNoOtherFromBeingSeen(t *testing.T) {
	noProcesses(t)
	dir := procDir + "/90000001"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	status := "Name:\tsh\nState:\tZ (zombie)\nUid:\t2001\t2001\t2001\t2001\nGroups:\t" + strings.Repeat("1000000 ", 65536) + "\nThreads:\t1\n"
	for name, text := range map[string]string{"status": status, "cgroup": "0::/system.slice/cron.service\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if killed, err := EndForeign(soon(t), 500, ""); err != nil || len(killed) > 0 {
		t.Errorf("%v %v", killed, err)
	}
}

func TestProcessesOfTheKeptCgroupLive(t *testing.T) {
	noProcesses(t)
	write := func(pid, uid, cgroup string) {
		dir := procDir + "/" + pid
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		status := "Name:\tpython3\nState:\tS (sleeping)\nUid:\t" + uid + "\t" + uid + "\t" + uid + "\t" + uid + "\n"
		if err := os.WriteFile(dir+"/status", []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/cgroup", []byte("0::"+cgroup+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Numbers above the kernel's largest pid (4194304): nothing can be killed.
	write("90000001", "2001", "/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0")
	write("90000002", "2001", "/system.slice/slurmstepd.scope/job_7")
	const keep = "/system.slice/slurmstepd.scope/job_7/"
	if killed, err := EndForeign(soon(t), 2001, keep); err != nil || len(killed) > 0 {
		t.Errorf("%v %v", killed, err)
	}
	write("90000003", "2001", "/system.slice/slurmstepd.scope/job_71")
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	killed, err := EndForeign(ctx, 2001, keep)
	if err == nil || len(killed) != 1 || killed[0].PID != 90000003 {
		t.Errorf("%v %v", killed, err)
	}
}
