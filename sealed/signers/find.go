package signers

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Why Find names nobody.
var (
	// ErrUnknown: no line has this key, or the authority of this
	// certificate, for this namespace.
	ErrUnknown = errors.New("key not registered")
	// ErrNotNow: there is such a line, but it or the certificate is not
	// valid at this time.
	ErrNotNow = errors.New("key registered, but not valid at this time")
	// ErrCertificate: the certificate's authority is registered, but the
	// certificate is not one that lets a user sign.
	ErrCertificate = errors.New("certificate not acceptable")
)

// Principals are the users whom a list lets a key sign for.
type Principals struct{ grants []grant }

// A grant comes from one line: whom its patterns match and, for a certificate,
// whom the certificate names too.
type grant struct {
	patterns  patternList
	certified []string // nil for a plain key
}

// Include says whether the user is one of them.
func (p Principals) Include(user string) bool {
	return slices.ContainsFunc(p.grants, func(g grant) bool {
		return g.patterns.matches(user) && (g.certified == nil || slices.Contains(g.certified, user))
	})
}

// String is for people: the names and patterns of the file, or those names of
// a certificate that they match.
func (p Principals) String() string {
	var names []string
	for _, g := range p.grants {
		if g.certified == nil {
			names = append(names, strings.Split(string(g.patterns), ",")...)
		}
		for _, c := range g.certified {
			if g.patterns.matches(c) {
				names = append(names, c)
			}
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// Find returns the users whose key this is, for signatures in the namespace
// made valid at the time now: those of every line that allows it.
func (l *List) Find(key ssh.PublicKey, namespace string, now time.Time) (Principals, error) {
	var p Principals
	why := ErrUnknown
	raw := key.Marshal()
	cert, certified := key.(*ssh.Certificate)
	now = now.Truncate(time.Second) // the file's times have whole seconds
	for _, e := range l.entries {
		switch {
		case e.authority && certified && bytes.Equal(e.raw, cert.SignatureKey.Marshal()):
		case !e.authority && bytes.Equal(e.raw, raw):
		default:
			continue
		}
		if e.namespaces != nil && !e.namespaces.matches(namespace) {
			continue
		}
		// sshsig.c takes both ends as valid.
		if !e.after.IsZero() && now.Before(e.after) || !e.before.IsZero() && now.After(e.before) {
			why = ErrNotNow
			continue
		}
		g := grant{patterns: e.principals}
		if e.authority {
			if err := checkCertificate(cert, now); errors.Is(err, ErrNotNow) {
				why = err
				continue
			} else if err != nil {
				why = fmt.Errorf("%w: %w", ErrCertificate, err)
				continue
			}
			g.certified = cert.ValidPrincipals
		}
		p.grants = append(p.grants, g)
	}
	if len(p.grants) == 0 {
		return p, why
	}
	return p, nil
}
