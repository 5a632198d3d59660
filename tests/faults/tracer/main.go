//go:build linux && amd64

// Command tracer makes one chosen system call of noded fail, hang, or be its
// last. It runs on a node of the test cluster, outside noded: the noded that is
// tested is the released one, in its own unit, changed by nothing but a drop-in
// for ExecStart.
//
//	tracer serve               trace what registers, until ended
//	tracer run PROGRAM ARG...  register, then become PROGRAM
//	tracer arm                 orders from standard input (call.Orders)
//	tracer release             let the call go that is held
//	tracer calls               the calls since then (call.Trace)
//	tracer state               the same without the calls
//
// The kernel stops a traced process only at calls that a seccomp filter picks,
// so that noded is hardly slower. Processes that it starts are traced too.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"cloister/tests/faults/call"
)

// socketPath is in a directory that noded's unit leaves it. A test has another.
var socketPath = cmp.Or(os.Getenv("CLOISTER_TRACER_SOCKET"), "/run/cloister-faults.sock")

// The main thread registers and calls execve: another one would get the process's
// number only then, and ptrace(2) knows threads by their numbers.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tracer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) >= 2 && args[0] == "run":
		return become(args[1:])
	case len(args) == 1 && args[0] == "arm":
		var o call.Orders
		if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
			return fmt.Errorf("reading the orders: %w", err)
		}
		_, err := ask(request{Arm: &o})
		return err
	case len(args) == 1 && args[0] == "release":
		_, err := ask(request{Release: true})
		return err
	case len(args) == 1 && (args[0] == "calls" || args[0] == "state"):
		t, err := ask(request{})
		if err != nil {
			return err
		}
		if args[0] == "state" {
			t.Calls = nil
		}
		return json.NewEncoder(os.Stdout).Encode(t)
	}
	return fmt.Errorf("usage: tracer serve | run PROGRAM ARG... | arm | release | calls | state")
}

// A request is what is asked of the server; the empty one is for the trace.
type request struct {
	Register bool         `json:"register,omitempty"`
	Release  bool         `json:"release,omitempty"`
	Arm      *call.Orders `json:"arm,omitempty"`
}

type answer struct {
	Error string     `json:"error,omitempty"`
	Trace call.Trace `json:"trace"`
}

func ask(r request) (call.Trace, error) {
	c, err := net.Dial("unix", socketPath)
	if err != nil {
		return call.Trace{}, err
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return call.Trace{}, err
	}
	var a answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return a.Trace, fmt.Errorf("reading the tracer's answer: %w", err)
	}
	if a.Error != "" {
		return a.Trace, fmt.Errorf("the tracer answers: %s", a.Error)
	}
	return a.Trace, nil
}

// listen answers requests; each is done by the tracing thread.
func listen(do func(pid int, r request) answer) error {
	_ = os.Remove(socketPath)
	l, err := net.Listen("unix", socketPath)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var r request
				if err := json.NewDecoder(io.LimitReader(c, 1<<16)).Decode(&r); err != nil {
					return
				}
				pid, err := peer(c.(*net.UnixConn))
				a := answer{}
				if err != nil {
					a.Error = err.Error()
				} else {
					a = do(pid, r)
				}
				_ = json.NewEncoder(c).Encode(a)
			}()
		}
	}()
	return nil
}
