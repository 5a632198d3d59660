//go:build linux && amd64

package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloister/tests/faults/call"
)

// TestMain is the tracer itself if its first argument says so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "tracer" {
		os.Args = append(os.Args[:1], os.Args[2:]...)
		main()
		return
	}
	os.Exit(m.Run())
}

func tracerCommand(socket string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"tracer"}, args...)...)
	cmd.Env = append(os.Environ(), "CLOISTER_TRACER_SOCKET="+socket)
	return cmd
}

// The directory is made by a child of what registered, as noded's helpers are.
func TestEachFaultDoesToOneCallWhatItsNameSays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to trace")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	server := tracerCommand(socket, "serve")
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	for _, err := os.Stat(socket); err != nil; _, err = os.Stat(socket) {
		time.Sleep(10 * time.Millisecond)
	}
	arm := func(o call.Orders) {
		t.Helper()
		b, _ := json.Marshal(o)
		cmd := tracerCommand(socket, "arm")
		cmd.Stdin = strings.NewReader(string(b))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	trace := func() (tr call.Trace) {
		t.Helper()
		out, err := tracerCommand(socket, "calls").Output()
		if err == nil {
			err = json.Unmarshal(out, &tr)
		}
		if err != nil || tr.Lost != "" {
			t.Fatalf("%v, lost: %s", err, tr.Lost)
		}
		return tr
	}
	// The shell waits to be killed, if it is to be.
	run := func(made string) (killed bool, took time.Duration) {
		t.Helper()
		os.Remove(made)
		began := time.Now()
		err := tracerCommand(socket, "run", "/bin/sh", "-c", `mkdir "$0"; [ -n "$1" ] && sleep 5; exit 0`, made, os.Getenv("WAIT_FOR_DEATH")).Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return exit != nil && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL, time.Since(began)
	}
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }

	made := filepath.Join(dir, "made")
	arm(call.Orders{})
	run(made)
	var target call.Call
	for _, c := range trace().Calls {
		if strings.HasPrefix(c.Name, "admit: mkdir mkdir ") {
			target = c
		}
	}
	if target.N != 1 || !exists(made) {
		t.Fatalf("the call was not seen: %v", trace().Calls)
	}
	const hold = 700 * time.Millisecond
	for _, f := range call.Faults {
		arm(call.Orders{Call: target, Fault: f, Hold: hold})
		kills := f == call.KillBefore || f == call.KillAfter
		if kills {
			t.Setenv("WAIT_FOR_DEATH", "yes")
		} else {
			t.Setenv("WAIT_FOR_DEATH", "")
		}
		killed, took := run(made)
		if trace().Fired == "" {
			t.Errorf("%s: nothing was done", f)
		}
		if killed != kills {
			t.Errorf("%s: killed: %v", f, killed)
		}
		if f == call.Error && exists(made) || (f == call.KillAfter || f == call.Hold) && !exists(made) {
			t.Errorf("%s: the directory exists: %v", f, exists(made))
		}
		if f == call.Hold && took < hold {
			t.Errorf("the call was held for less than %v", took)
		}
	}
	// What is held is let go when told to.
	os.Remove(made)
	arm(call.Orders{Call: target, Fault: call.Hold, Hold: time.Hour})
	held := tracerCommand(socket, "run", "/bin/sh", "-c", `mkdir "$0"`, made)
	if err := held.Start(); err != nil {
		t.Fatal(err)
	}
	for !trace().Holding {
		time.Sleep(10 * time.Millisecond)
	}
	if exists(made) {
		t.Error("the call was made though it is held")
	}
	if out, err := tracerCommand(socket, "release").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := held.Wait(); err != nil || !exists(made) || trace().Holding {
		t.Errorf("after the release: %v, the directory exists: %v", err, exists(made))
	}
}
