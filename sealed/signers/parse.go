package signers

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Limits of an allowed_signers file.
const (
	MaxSize    = 1 << 20 // bytes
	MaxLine    = 16 << 10
	MaxEntries = 4096

	minRSABits = 2048 // NIST SP 800-131A
	maxRSABits = 16384
)

// A List is a parsed allowed_signers file.
type List struct{ entries []entry }

type entry struct {
	line       int
	principals []string
	namespaces []string // nil: any
	after      time.Time
	before     time.Time
	key        ssh.PublicKey
}

// Parse reads an allowed_signers file. Times without a Z are in the local time
// zone, as with ssh-keygen.
func Parse(file []byte) (*List, error) {
	if len(file) > MaxSize {
		return nil, fmt.Errorf("allowed_signers: %d bytes, at most %d are served", len(file), MaxSize)
	}
	l := &List{}
	n := 0
	for line := range bytes.Lines(file) {
		n++
		e, ok, err := parseLine(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return nil, fmt.Errorf("allowed_signers: line %d: %w", n, err)
		}
		if !ok {
			continue
		}
		if len(l.entries) == MaxEntries {
			return nil, fmt.Errorf("allowed_signers: more than %d keys", MaxEntries)
		}
		e.line = n
		l.entries = append(l.entries, e)
	}
	return l, nil
}

// Len is the number of lines that name a key.
func (l *List) Len() int { return len(l.entries) }

func parseLine(line string) (e entry, ok bool, err error) {
	if len(line) > MaxLine {
		return e, false, fmt.Errorf("%d bytes, at most %d are served", len(line), MaxLine)
	}
	for i := 0; i < len(line); i++ {
		if c := line[i]; c < ' ' && c != '\t' || c == 0x7f {
			return e, false, fmt.Errorf("byte %d is the control character 0x%02x", i+1, c)
		}
	}
	rest := strings.Trim(line, " \t")
	if rest == "" || rest[0] == '#' {
		return e, false, nil
	}
	principals, rest := field(rest)
	if e.principals, err = parsePrincipals(principals); err != nil {
		return e, false, err
	}
	word, after, err := quotedField(rest)
	if err != nil {
		return e, false, err
	}
	if !isKeyType(word) {
		if err := e.parseOptions(word); err != nil {
			return e, false, err
		}
		word, after, err = quotedField(after)
		if err != nil {
			return e, false, err
		}
	}
	blob, _ := field(after) // what follows is a comment
	e.key, err = parseKey(word, blob)
	return e, err == nil, err
}

// field cuts the first word off.
func field(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// quotedField cuts off a word in which blanks between double quotes count as
// part of it. A backslash is refused: ssh-keygen knows \" inside quotes, and
// no value that is served needs it.
func quotedField(s string) (word, rest string, err error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			return "", "", errors.New("a backslash is not served")
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return s[:i], strings.TrimLeft(s[i:], " \t"), nil
		}
	}
	if quoted {
		return "", "", errors.New("a double quote is not closed")
	}
	return s, "", nil
}

func parsePrincipals(s string) ([]string, error) {
	var ps []string
	for p := range strings.SplitSeq(s, ",") {
		switch {
		case p == "":
			return nil, errors.New("an empty principal")
		case strings.ContainsAny(p, "*?!"):
			return nil, fmt.Errorf("principal %q: patterns are not served, write each user's name", p)
		case strings.ContainsAny(p, `"'\`):
			return nil, fmt.Errorf("principal %q: quoting is not served", p)
		}
		for i := 0; i < len(p); i++ {
			if p[i] > '~' {
				return nil, fmt.Errorf("principal %q is not ASCII", p)
			}
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// servedKeys are the key types that golang.org/x/crypto/ssh verifies and that
// are strong enough; DSA is not.
var servedKeys = map[string]bool{
	ssh.KeyAlgoED25519:    true,
	ssh.KeyAlgoECDSA256:   true,
	ssh.KeyAlgoECDSA384:   true,
	ssh.KeyAlgoECDSA521:   true,
	ssh.KeyAlgoRSA:        true,
	ssh.KeyAlgoSKED25519:  true,
	ssh.KeyAlgoSKECDSA256: true,
}

func isKeyType(word string) bool {
	for _, prefix := range []string{"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"} {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}

func parseKey(kind, blob string) (ssh.PublicKey, error) {
	if !servedKeys[kind] {
		if strings.Contains(kind, "-cert-v0") {
			return nil, fmt.Errorf("key type %q: certificates are not served", kind)
		}
		return nil, fmt.Errorf("key type %q is not served", kind)
	}
	if blob == "" {
		return nil, fmt.Errorf("key type %q without a key", kind)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(blob)
	if err != nil {
		return nil, fmt.Errorf("the key is not base64: %w", err)
	}
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	if key.Type() != kind {
		return nil, fmt.Errorf("the key is of type %q, the line says %q", key.Type(), kind)
	}
	if !bytes.Equal(key.Marshal(), raw) {
		return nil, errors.New("the key is not in canonical form")
	}
	return key, CheckKey(key)
}

// CheckKey refuses a key that may not sign jobs: of a type that is not served,
// or RSA below 2048 bits.
func CheckKey(key ssh.PublicKey) error {
	if !servedKeys[key.Type()] {
		return fmt.Errorf("key type %q is not served", key.Type())
	}
	if key.Type() != ssh.KeyAlgoRSA {
		return nil
	}
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return errors.New("an RSA key that cannot be read")
	}
	k, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return errors.New("an RSA key that cannot be read")
	}
	if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits, from %d to %d are served", bits, minRSABits, maxRSABits)
	}
	return nil
}
