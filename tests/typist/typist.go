// Package typist is a command for testscript that types on a terminal.
package typist

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// Types runs a program whose standard input is a terminal, on which the lines
// of args[1], split at |, are typed, each when the program asks. ^C is Ctrl-C.
// What it prints goes where testscript's exec puts it. Its end must leave the
// terminal with echo.
func Types(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: types N 'LINE|LINE' PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	typist, terminal, err := openTerminal()
	ts.Check(err)
	defer typist.Close()
	defer terminal.Close()
	cmd := exec.Command(args[2], args[3:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "CLOISTER_HOME="+ts.Getenv("CLOISTER_HOME"))
	asked := make(prompts, 1)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, ts.Stdout(), io.MultiWriter(ts.Stderr(), asked)
	// A session of its own makes the terminal the one that Ctrl-C comes from.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	ts.Check(cmd.Start())
	go func() {
		for _, line := range strings.Split(args[1], "|") {
			<-asked
			for echoes(terminal) { // the question comes right before it is switched off
				time.Sleep(time.Millisecond)
			}
			keys := line + "\n"
			if line == "^C" {
				keys = "\x03"
			}
			if _, err := typist.WriteString(keys); err != nil {
				return
			}
		}
	}()
	err = cmd.Wait()
	e, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed {
		ts.Fatalf("%v", err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit status %d, want %d (%v)", got, want, e)
	}
	if !echoes(terminal) {
		ts.Fatalf("the terminal was left without echo")
	}
}

func echoes(terminal *os.File) bool {
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	return err == nil && state.Lflag&unix.ECHO != 0
}

// prompts tells of each write that ends as a prompt does.
type prompts chan struct{}

func (p prompts) Write(b []byte) (int, error) {
	if strings.HasSuffix(string(b), ": ") {
		p <- struct{}{}
	}
	return len(b), nil
}

// openTerminal makes a pseudo-terminal, pty(7).
func openTerminal() (typist, terminal *os.File, err error) {
	typist, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(typist.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(typist.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		typist.Close()
	}
	return typist, terminal, err
}
