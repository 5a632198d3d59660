package handoff

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
)

// An Admission is what the plugin needs to run an admitted step.
type Admission struct {
	// Env is the step's whole environment, as NAME=VALUE, but for Slurm's own
	// facts about the job, which the plugin leaves in place, and for HOME.
	Env []string
	// Home becomes HOME.
	Home string
	// Cwd is the working directory of the tasks in the job view.
	Cwd string
	// Stdout and Stderr are files in the job view. The plugin opens them as
	// the user, for appending, and makes them where they are missing.
	Stdout, Stderr string
	// MountNS and IPCNS are the job view's namespaces. They stay the caller's.
	MountNS, IPCNS *os.File
	// Messages are told to the user, one line each, in the job's output file
	// outside of the view.
	Messages []string
}

// variable is what a portable shell takes as NAME=VALUE (POSIX XBD 3.216).
var variable = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=[^\x00]*$`)

// Check says why the plugin would not take the admission, which may lack its
// namespaces still.
func (a *Admission) Check() error {
	_, err := a.encode()
	return err
}

// encode makes the datagram, or says why the plugin would not take it.
func (a *Admission) encode() ([]byte, error) {
	w := newWriter()
	w.put("verdict", "admit")
	if len(a.Env) > envMax {
		return nil, fmt.Errorf("%d environment variables, of at most %d", len(a.Env), envMax)
	}
	seen := make(map[string]bool)
	for _, v := range a.Env {
		name, _, _ := strings.Cut(v, "=")
		if !variable.MatchString(v) || strings.Contains(v, "\x00") {
			return nil, fmt.Errorf("the environment variable %.64q has no proper name or holds a NUL", name)
		}
		if seen[name] || name == "HOME" {
			return nil, fmt.Errorf("the environment variable %s is given twice", name)
		}
		seen[name] = true
		w.put("env", v)
	}
	for _, p := range []field{{"home", a.Home}, {"cwd", a.Cwd}, {"stdout", a.Stdout}, {"stderr", a.Stderr}} {
		if err := checkPath(p.value); err != nil {
			return nil, fmt.Errorf("the path %s: %w", p.name, err)
		}
		w.put(p.name, p.value)
	}
	if w.buf.Len() > DatagramMax {
		return nil, fmt.Errorf("an admission of %d bytes, of at most %d", w.buf.Len(), DatagramMax)
	}
	w.messages(a.Messages)
	return w.buf.Bytes(), nil
}

func checkPath(p string) error {
	if !path.IsAbs(p) || len(p) > pathBytesMax {
		return errors.New("not an absolute path")
	}
	if strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("it holds a control character")
	}
	return nil
}

// encodeVerdict makes a datagram that has a verdict and messages only.
func encodeVerdict(verdict string, messages []string) []byte {
	w := newWriter()
	w.put("verdict", verdict)
	w.messages(messages)
	return w.buf.Bytes()
}
