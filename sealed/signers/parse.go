package signers

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits of an allowed_signers file.
const (
	MaxSize    = 1 << 20 // bytes
	MaxLine    = 16 << 10
	MaxEntries = 4096
)

// A List is a parsed allowed_signers file.
type List struct{ entries []entry }

type entry struct {
	principals patternList
	namespaces *patternList // nil: any
	after      time.Time
	before     time.Time
	authority  bool   // the key signs certificates, not jobs
	raw        []byte // the key, as in the SSH protocol
}

// Parse reads an allowed_signers file. Times without a Z are in the local time
// zone, as with ssh-keygen.
func Parse(file []byte) (*List, error) { return parse(file, time.Local) }

func parse(file []byte, zone *time.Location) (*List, error) {
	if len(file) > MaxSize {
		return nil, fmt.Errorf("allowed_signers: %d bytes, at most %d are served", len(file), MaxSize)
	}
	l := &List{}
	n := 0
	for line := range bytes.Lines(file) {
		n++
		text, _ := strings.CutSuffix(string(line), "\n")
		e, ok, err := parseLine(strings.TrimSuffix(text, "\r"), zone)
		if err != nil {
			return nil, fmt.Errorf("allowed_signers: line %d: %w", n, err)
		}
		if !ok {
			continue
		}
		if len(l.entries) == MaxEntries {
			return nil, fmt.Errorf("allowed_signers: more than %d keys", MaxEntries)
		}
		l.entries = append(l.entries, e)
	}
	return l, nil
}

// Len is the number of lines that name a key.
func (l *List) Len() int { return len(l.entries) }

func parseLine(line string, zone *time.Location) (e entry, ok bool, err error) {
	if len(line) > MaxLine {
		return e, false, fmt.Errorf("%d bytes, at most %d are served", len(line), MaxLine)
	}
	for i := 0; i < len(line); i++ {
		if c := line[i]; c < ' ' && c != '\t' || c == 0x7f {
			return e, false, fmt.Errorf("byte %d is the control character 0x%02x", i+1, c)
		}
	}
	rest := strings.Trim(line, blanks)
	if rest == "" || rest[0] == '#' {
		return e, false, nil
	}
	principals, rest, err := principalsField(rest)
	if err != nil {
		return e, false, err
	}
	if e.principals, err = parsePrincipals(principals); err != nil {
		return e, false, err
	}
	word, after := field(rest)
	if !isKeyType(word) {
		if word, after, err = optionsField(rest); err != nil {
			return e, false, err
		}
		if err := e.parseOptions(word, zone); err != nil {
			return e, false, err
		}
		word, after = field(after)
	}
	blob, _ := field(after) // what follows is a comment
	key, err := parseKey(word, blob)
	if err != nil {
		return e, false, err
	}
	e.raw = key.Marshal()
	return e, true, nil
}

const blanks = " \t"

// field cuts the first word off.
func field(s string) (word, rest string) {
	i := strings.IndexAny(s, blanks)
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], blanks)
}

// principalsField cuts the first word off as misc.c's strdelimw does: it ends at
// a blank or, if a double quote comes first, at the quote that closes it.
func principalsField(s string) (word, rest string, err error) {
	i := strings.IndexAny(s, blanks+`"`)
	if i < 0 || s[i] != '"' {
		word, rest = field(s)
		return word, rest, nil
	}
	quoted, rest, ok := strings.Cut(s[i+1:], `"`)
	if !ok {
		return "", "", errors.New("a double quote is not closed")
	}
	return s[:i] + quoted, strings.TrimLeft(rest, blanks), nil
}

// optionsField cuts off the options, in which blanks between double quotes
// count, and \" is no quote (authfile.c, sshkey_advance_past_options).
func optionsField(s string) (word, rest string, err error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\"`):
			i++
		case s[i] == '"':
			quoted = !quoted
		case strings.IndexByte(blanks, s[i]) >= 0 && !quoted:
			return s[:i], strings.TrimLeft(s[i:], blanks), nil
		}
	}
	if quoted {
		return "", "", errors.New("a double quote is not closed")
	}
	return s, "", nil
}

func parsePrincipals(s string) (patternList, error) {
	if s == "" {
		return "", errors.New("no principal")
	}
	for i := 0; i < len(s); i++ {
		if s[i] > '~' {
			return "", fmt.Errorf("principal %q is not ASCII", s)
		}
	}
	return parsePatterns(s)
}
