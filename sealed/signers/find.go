package signers

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// Why Find names nobody.
var (
	// ErrUnknown: no line has this key for this namespace.
	ErrUnknown = errors.New("key not registered")
	// ErrNotNow: there is such a line, but it is not valid at this time.
	ErrNotNow = errors.New("key registered, but not valid at this time")
)

// Find returns the users whose key this is, for signatures in the namespace
// made valid at the time now: those of every line that allows it, sorted,
// without repetition.
func (l *List) Find(key ssh.PublicKey, namespace string, now time.Time) ([]string, error) {
	var users []string
	err := ErrUnknown
	raw := key.Marshal()
	now = now.Truncate(time.Second) // the file's times have whole seconds
	for _, e := range l.entries {
		if !bytes.Equal(e.key.Marshal(), raw) {
			continue
		}
		if e.namespaces != nil && !slices.Contains(e.namespaces, namespace) {
			continue
		}
		// sshsig.c takes both ends as valid.
		if !e.after.IsZero() && now.Before(e.after) || !e.before.IsZero() && now.After(e.before) {
			err = ErrNotNow
			continue
		}
		users = append(users, e.principals...)
	}
	if len(users) == 0 {
		return nil, err
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}
