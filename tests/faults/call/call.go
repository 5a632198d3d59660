// Package call names the system calls of a session and what can be done to
// one. It is what the tracer on a node and the tests outside it say to each
// other.
package call

import (
	"fmt"
	"time"
)

// A Call is one system call by which noded, a helper of it or a program that
// it starts changes the system.
type Call struct {
	// Name is "PHASE: PROGRAM CALL", without numbers that another session has
	// others of. PHASE is the step of the session's journal that was begun
	// last, or "undo" and the step that is next to be undone.
	Name string `json:"name"`
	// N counts the calls of that name in a session, from 1.
	N int `json:"n"`
}

func (c Call) String() string { return fmt.Sprintf("%s #%d", c.Name, c.N) }

// A Fault is what happens at a call.
type Fault string

// The faults. Noded is the main process, also where a helper makes the call.
const (
	None       Fault = ""
	KillBefore Fault = "kill before" // noded gets SIGKILL; a call of its own is not made
	KillAfter  Fault = "kill after"  // noded gets SIGKILL when the call was made
	Error      Fault = "error"       // the call is not made and returns an error
	Hold       Fault = "time-out"    // the call is made only after Orders.Hold
)

// Faults are in the order of the matrix's columns.
var Faults = []Fault{KillBefore, KillAfter, Error, Hold}

// Orders tell the tracer what to do in the session that comes.
type Orders struct {
	Call  Call          `json:"call"`
	Fault Fault         `json:"fault"`
	Hold  time.Duration `json:"hold"`
}

// A Trace is what the tracer saw since it got its orders.
type Trace struct {
	Calls []Call `json:"calls"`
	// Fired says what was done, "" if the call did not come.
	Fired string `json:"fired"`
	// Holding: the call is still held.
	Holding bool `json:"holding"`
	// Lost is why the tracer no longer sees all calls, "" if it does.
	Lost string `json:"lost"`
}
