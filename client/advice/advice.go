// Package advice is how the client says what went wrong: one line of cause and
// one line of what to do next, with the status that the program exits with.
package advice

import (
	"errors"
	"fmt"
)

// The exit statuses of cloister: an interface, so none ever changes.
const (
	OK          = 0
	Failure     = 1   // the machine, the network or a server failed
	Usage       = 2   // wrong arguments
	Refused     = 3   // what was given is not valid, or is refused
	WrongKey    = 4   // no keyslot opens with the passphrase or key
	InUse       = 5   // another program has the volume open for writing
	Altered     = 6   // an authenticated volume was altered, or an older one was put in its place
	Unfit       = 7   // the node refuses sealed jobs
	Interrupted = 130 // Ctrl-C, as a shell reports it (128 + SIGINT)
)

// An Error has a cause, an exit status and what to do next.
type Error struct {
	Status int
	Err    error
	Next   string // may be empty
}

// Error is the cause.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Refuse says that what was given is not valid or not allowed.
func Refuse(next, cause string, args ...any) error {
	return &Error{Refused, fmt.Errorf(cause, args...), next}
}

// Fail says that something that should have worked did not.
func Fail(next, cause string, args ...any) error {
	return &Error{Failure, fmt.Errorf(cause, args...), next}
}

// Misuse says that the arguments are wrong.
func Misuse(next, cause string, args ...any) error {
	return &Error{Usage, fmt.Errorf(cause, args...), next}
}

// Next returns the advice in err's chain, or "".
func Next(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Next
	}
	return ""
}
