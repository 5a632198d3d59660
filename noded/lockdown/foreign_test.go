//go:build !guest

package lockdown

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside is set in the copy of this test that runs as the first process of a
// PID namespace, where it can kill nobody else's processes.
const inside = "CLOISTER_TEST_INSIDE"

func TestForeignProcessesEndAndOthersLive(t *testing.T) {
	if os.Getenv(inside) != "" {
		endForeignInside(t)
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

func endForeignInside(t *testing.T) {
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
