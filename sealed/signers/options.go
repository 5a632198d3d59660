package signers

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// parseOptions reads the comma-separated options of a line as sshsig.c does:
// names in either case, cert-authority any number of times, the others once
// and with a value in double quotes. An option may be empty, but not the last.
func (e *entry) parseOptions(s string, zone *time.Location) error {
	for s != "" {
		if rest, ok := cutPrefixFold(s, "cert-authority"); ok {
			e.authority, s = true, rest
		} else if name, rest, ok := strings.Cut(s, "="); ok && isOption(name) {
			value, rest, err := unquote(rest)
			if err != nil {
				return fmt.Errorf("option %s: %w", name, err)
			}
			if err := e.setOption(strings.ToLower(name), value, zone); err != nil {
				return fmt.Errorf("option %s: %w", name, err)
			}
			s = rest
		}
		if s == "" {
			break
		}
		rest, ok := strings.CutPrefix(s, ",")
		if !ok {
			return fmt.Errorf("an option that is not known, at %.40q", s)
		}
		if rest == "" {
			return errors.New("a comma after the last option")
		}
		s = rest
	}
	if !e.after.IsZero() && !e.before.IsZero() && !e.after.Before(e.before) {
		return errors.New("valid-after is not before valid-before")
	}
	return nil
}

func isOption(name string) bool {
	return strings.EqualFold(name, "namespaces") || strings.EqualFold(name, "valid-after") || strings.EqualFold(name, "valid-before")
}

func (e *entry) setOption(name, value string, zone *time.Location) (err error) {
	errTwice := errors.New("given twice")
	switch name {
	case "namespaces":
		if e.namespaces != nil {
			return errTwice
		}
		var l patternList
		if l, err = parsePatterns(value); err == nil {
			e.namespaces = &l
		}
	case "valid-after":
		if !e.after.IsZero() {
			return errTwice
		}
		e.after, err = parseTime(value, zone)
	case "valid-before":
		if !e.before.IsZero() {
			return errTwice
		}
		e.before, err = parseTime(value, zone)
	}
	return err
}

// unquote cuts a value in double quotes off, in which \" stands for a quote and
// any other backslash for itself.
func unquote(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", "", errors.New("it wants a value in double quotes")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case strings.HasPrefix(s[i:], `\"`):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", errors.New("its double quote is not closed")
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
