package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// moments is at how many points of a program's course sweep interrupts it.
const moments = 12

// sweep runs a program once to its end, and then interrupts it, with Ctrl-C, at
// moments spread over the time that this took. After each run the shell script
// CHECK, with the exit status as $1, must find everything in order and put it
// back as it was. At least one run must have been interrupted.
func sweep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sweep CHECK PROGRAM ARGS…")
	}
	check := func(status string) {
		if err := ts.Exec("sh", "-c", "set -e\n"+args[0], "sh", status); err != nil {
			ts.Fatalf("after a run that ended with %s: %v", status, err)
		}
	}
	began := time.Now()
	ts.Check(ts.Exec(args[1], args[2:]...))
	took := time.Since(began)
	check("0")
	interrupted := 0
	for i := range moments {
		switch status := interruptAfter(ts, took*time.Duration(i)/moments, args[1:]); status {
		case 130:
			interrupted++
			check("130")
		case 0:
			check("0")
		default:
			ts.Fatalf("interrupted after %d/%d of its time, it ended with %d", i, moments, status)
		}
	}
	if interrupted == 0 {
		ts.Fatalf("it was never interrupted")
	}
}

// interruptAfter starts a program, sends it Ctrl-C after a while and returns its
// exit status as a shell reports it.
func interruptAfter(ts *testscript.TestScript, after time.Duration, args []string) int {
	// Whoever starts the tests in the background may have SIGINT ignored.
	cmd := exec.Command("env", append([]string{"--default-signal=INT"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "CLOISTER_HOME="+ts.Getenv("CLOISTER_HOME"))
	ts.Check(cmd.Start())
	time.Sleep(after)
	if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		ts.Check(err)
	}
	if _, failed := errors.AsType[*exec.ExitError](cmd.Wait()); !failed {
		return 0
	}
	if ended := cmd.ProcessState.Sys().(syscall.WaitStatus); ended.Signaled() && ended.Signal() == syscall.SIGINT {
		return 130 // before the program was ready for signals
	}
	return cmd.ProcessState.ExitCode()
}

// forbidden runs a program without the right to pass by file permissions, and
// wants exit status 1.
func forbidden(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: forbidden PROGRAM ARGS…")
	}
	const script = `exec setpriv --bounding-set=-all --inh-caps=-all "$@"`
	unshared(ts, script, args)
}
