// Package prompt asks for a passphrase or password on a terminal, such that the
// terminal echoes again however that ends, short of kill -9.
package prompt

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cloister/secret"

	"golang.org/x/term"
)

// Endings are the signals after which nothing may be left half done: Ctrl-C,
// kill, and a terminal that goes away, unless nohup says not to mind that.
func Endings() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// Terminal reports whether f is one, so that somebody can be asked.
func Terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Ask prints the question on standard error and reads a line from the terminal f
// without echo. One of Endings makes it return context.Canceled.
func Ask(f *os.File, question string) (secret.Bytes, error) {
	fd := int(f.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return secret.Bytes{}, err
	}
	// The read below cannot be interrupted: whatever ends the program must put the
	// echo back.
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, Endings()...)
	defer signal.Stop(stopped)
	type answer struct {
		b   []byte
		err error
	}
	read := make(chan answer, 1)
	fmt.Fprint(os.Stderr, question)
	go func() {
		b, err := term.ReadPassword(fd)
		read <- answer{b, err}
	}()
	select {
	case <-stopped:
		_ = term.Restore(fd, state)
		fmt.Fprintln(os.Stderr)
		return secret.Bytes{}, context.Canceled
	case a := <-read:
		fmt.Fprintln(os.Stderr)
		if a.err != nil {
			return secret.Bytes{}, a.err
		}
		return secret.New(a.b), nil
	}
}
