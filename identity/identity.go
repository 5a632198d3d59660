// Package identity is the file with a node's age identities, which open the
// jobs that are sealed to it.
//
// It is an age identity file, so `age -d -i` reads it. What it adds is a
// comment: a line `# until: TIME` says that the identity below it counts until
// then and no longer. So a node that got a new identity goes on taking the
// jobs that wait for the old one, for a stated time. Identities that are not
// hybrid post-quantum ones are refused, and so is everything else.
package identity

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"cloister/secret"

	"filippo.io/age"
)

const (
	// MaxSize of an identity file, in bytes; a hybrid identity has fewer
	// than 100.
	MaxSize = 16 << 10
	// maxIdentities is more than anybody replaces in the life of a job.
	maxIdentities = 16

	untilMark = "# until:"
	prefix    = "AGE-SECRET-KEY-PQ-1"
)

// Identity opens what was sealed to Recipient, until its time is over.
type Identity struct {
	key *age.HybridIdentity
	// Until is when it stops to count; the zero time is never.
	Until time.Time

	now func() time.Time // time.Now, but in tests
}

var _ age.Identity = (*Identity)(nil)

// New makes one that counts until it is replaced.
func New() (*Identity, error) {
	key, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, fmt.Errorf("making an identity: %w", err)
	}
	return &Identity{key: key, now: time.Now}, nil
}

// Recipient is the public half, for the site file.
func (i *Identity) Recipient() string { return i.key.Recipient().String() }

// Over reports whether its time is over.
func (i *Identity) Over(now time.Time) bool { return !i.Until.IsZero() && !now.Before(i.Until) }

// Unwrap is age's. One whose time is over opens nothing, like a stranger's.
func (i *Identity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if i.Over(i.now()) {
		return nil, age.ErrIncorrectIdentity
	}
	return i.key.Unwrap(stanzas)
}

// Parse reads a file. Errors name lines, never what is in them.
func Parse(b []byte) ([]*Identity, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("identity file: more than %d bytes", MaxSize)
	}
	var (
		list  []*Identity
		until time.Time
	)
	for n, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		bad := func(what string) ([]*Identity, error) {
			return nil, fmt.Errorf("identity file: line %d: %s", n+1, what)
		}
		switch text, dated := strings.CutPrefix(line, untilMark); {
		case dated:
			if !until.IsZero() {
				return bad("a second time for one identity")
			}
			t, err := time.Parse(time.RFC3339, strings.TrimSpace(text))
			if err != nil || t.IsZero() {
				return bad("not a time such as # until: 2026-12-31T00:00:00Z")
			}
			until = t
		case line == "" || strings.HasPrefix(line, "#"):
			if near := strings.ToLower(strings.ReplaceAll(line, " ", "")); strings.HasPrefix(near, "#until") {
				return bad("a time is written # until: 2026-12-31T00:00:00Z")
			}
		case !strings.HasPrefix(line, prefix):
			return bad("not a hybrid (post-quantum) identity, which starts " + prefix)
		default:
			key, err := age.ParseHybridIdentity(line)
			if err != nil {
				return bad("a damaged identity")
			}
			if len(list) == maxIdentities {
				return bad(fmt.Sprintf("more than %d identities", maxIdentities))
			}
			list = append(list, &Identity{key, until, time.Now})
			until = time.Time{}
		}
	}
	switch {
	case !until.IsZero():
		return nil, errors.New("identity file: a time at the end, for no identity")
	case len(list) == 0:
		return nil, errors.New("identity file: no identity in it")
	}
	return list, nil
}

// Encode writes a file that Parse reads.
func Encode(list []*Identity) secret.Bytes {
	var b []byte
	for _, i := range list {
		b = append(b, "# recipient: "+i.Recipient()+"\n"...)
		if !i.Until.IsZero() {
			b = append(b, untilMark+" "+i.Until.UTC().Format(time.RFC3339)+"\n"...)
		}
		b = append(b, i.key.String()+"\n"...)
	}
	return secret.New(b)
}

// Rotate puts a new identity first. Those that were there count until the time
// given, or until their own if that comes first; those whose time is over go.
func Rotate(old []*Identity, now, until time.Time) ([]*Identity, error) {
	fresh, err := New()
	if err != nil {
		return nil, err
	}
	list := []*Identity{fresh}
	for _, i := range old {
		if i.Over(now) {
			continue
		}
		kept := *i
		if kept.Until.IsZero() || kept.Until.After(until) {
			kept.Until = until.UTC().Truncate(time.Second)
		}
		list = append(list, &kept)
	}
	return list, nil
}
