package sealed

import (
	"errors"
	"fmt"
)

// Why a sealed job is refused. Test with errors.Is; every one of them comes
// inside a *Refusal.
var (
	ErrNotSealed      = errors.New("not a sealed job")
	ErrAltered        = errors.New("sealed job altered")
	ErrUnknownSigner  = errors.New("unknown signer")
	ErrExpiredSigner  = errors.New("signer's key not valid at this time")
	ErrOtherUser      = errors.New("sealed by or for somebody else")
	ErrExpired        = errors.New("sealed job expired")
	ErrClock          = errors.New("sealed job from the future")
	ErrOtherCluster   = errors.New("sealed for another cluster")
	ErrOtherClass     = errors.New("sealed for another class of node")
	ErrOtherNode      = errors.New("not encrypted to this node")
	ErrOtherArguments = errors.New("other arguments than it was sealed with")
	ErrOtherRun       = errors.New("not a run that the job was sealed for")
	ErrManifest       = errors.New("manifest not valid")
	ErrSecrets        = errors.New("secrets do not open")
)

// A Refusal says to a user, in one line each, why a sealed job is refused and
// what to do next. Both lines are printable and hold no secret.
type Refusal struct {
	Kind  error // one of the Err values above
	Cause string
	Next  string
}

// Error is the cause alone; a command line prints Next on a line of its own.
func (r *Refusal) Error() string { return r.Cause }

// Unwrap lets errors.Is find the Kind.
func (r *Refusal) Unwrap() error { return r.Kind }

func refuse(kind error, next, cause string, args ...any) *Refusal {
	return &Refusal{Kind: kind, Cause: printable(fmt.Sprintf(cause, args...)), Next: next}
}

// printable keeps bytes of an attacker's choice from being terminal controls
// in a user's output file.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	if len(b) > maxLine {
		b = append(b[:maxLine], "..."...)
	}
	return string(b)
}

const maxLine = 500

const (
	nextSealAgain = "seal the script again with cloister seal and submit the new file"
	nextTransfer  = "copy the sealed job again from where it was made, without editing it, or seal the script again"
)
