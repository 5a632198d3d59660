package signers

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// parseOptions reads the comma-separated options of a line: namespaces="…",
// valid-after="…" and valid-before="…", each once. Names are not case
// sensitive, as with ssh-keygen.
func (e *entry) parseOptions(s string) error {
	seen := make(map[string]bool)
	for _, o := range splitOptions(s) {
		name, value, valued := strings.Cut(o, "=")
		name = strings.ToLower(name)
		if seen[name] {
			return fmt.Errorf("option %q is given twice", name)
		}
		seen[name] = true
		switch name {
		case "cert-authority":
			return errors.New("option cert-authority: certificates are not served, register each user's key")
		case "namespaces", "valid-after", "valid-before":
		default:
			return fmt.Errorf("option %q is not known", name)
		}
		if !valued || len(value) < 3 || value[0] != '"' || value[len(value)-1] != '"' || strings.Count(value, `"`) != 2 {
			return fmt.Errorf("option %s wants a value in double quotes", name)
		}
		if err := e.setOption(name, value[1:len(value)-1]); err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	if !e.after.IsZero() && !e.before.IsZero() && !e.after.Before(e.before) {
		return errors.New("valid-after is not before valid-before")
	}
	return nil
}

func (e *entry) setOption(name, value string) (err error) {
	switch name {
	case "namespaces":
		for n := range strings.SplitSeq(value, ",") {
			if n == "" {
				return errors.New("an empty namespace")
			}
			if strings.ContainsAny(n, "*?! \t") {
				return fmt.Errorf("namespace %q: patterns are not served", n)
			}
			e.namespaces = append(e.namespaces, n)
		}
	case "valid-after":
		e.after, err = parseTime(value)
	case "valid-before":
		e.before, err = parseTime(value)
	}
	return err
}

// splitOptions splits at commas outside double quotes.
func splitOptions(s string) []string {
	var options []string
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			options = append(options, s[start:i])
			start = i + 1
		}
	}
	return append(options, s[start:])
}

// parseTime reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in the local time
// zone or, with a Z after it, in UTC.
func parseTime(s string) (time.Time, error) {
	digits, utc := strings.CutSuffix(s, "Z")
	where := time.Local
	if utc {
		where = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(layout) != len(digits) {
			continue
		}
		t, err := time.ParseInLocation(layout, digits, where)
		if err != nil || t.Unix() <= 0 {
			break
		}
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z for UTC", s)
}
