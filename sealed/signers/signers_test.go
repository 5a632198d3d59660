package signers

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
	"time"

	"cloister/tests/softkey"

	"golang.org/x/crypto/ssh"
)

const (
	keyA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOnU8dEKqhT1vbCOO3PiNd4j0gNTLNrqfqaQJDh6vGkM"
	keyB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDFjGWs+1Zr9XhC9gGfIcpAHYbSk9tLwAtNbSZyZyZyZ"
)

func publicKey(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func line(t testing.TB, key any) string {
	t.Helper()
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func TestALineThatIsNotUnderstoodRefusesTheFile(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := "alice " + keyA + "\n"
	for name, bad := range map[string]string{
		"no principal":            `"" ` + keyA,
		"principal not ASCII":     "älice " + keyA,
		"pattern too long":        "a" + strings.Repeat("*", maxPattern) + " " + keyA,
		"open quote":              `"alice ` + keyA,
		"comma after the quote":   `"alice",bob ` + keyA,
		"blank in principals":     "alice, bob " + keyA,
		"unknown option":          `alice no-touch-required ` + keyA,
		"option glued to flag":    `alice cert-authority2 ` + keyA,
		"option twice":            `alice namespaces="a",namespaces="b" ` + keyA,
		"option twice in case":    `alice namespaces="a",NAMESPACES="b" ` + keyA,
		"time twice":              `alice valid-after="20260101",valid-after="20260101" ` + keyA,
		"option without quotes":   `alice namespaces=a ` + keyA,
		"option without value":    `alice namespaces ` + keyA,
		"comma after the last":    `alice namespaces="a", ` + keyA,
		"open quote in options":   `alice namespaces="a ` + keyA,
		"quote opens after quote": `alice namespaces="a"" ` + keyA,
		"month 13":                `alice valid-after="20261301" ` + keyA,
		"a day of no calendar":    `alice valid-after="20260231" ` + keyA,
		"time in other form":      `alice valid-after="2026-01-01" ` + keyA,
		"blank in a time":         `alice valid-after="2026 1 1" ` + keyA,
		"time before 1970":        `alice valid-after="19691231Z" ` + keyA,
		"zone alone":              `alice valid-after="Z" ` + keyA,
		"times in wrong order":    `alice valid-after="20270101",valid-before="20260101" ` + keyA,
		"no key":                  "alice",
		"options without key":     `alice namespaces="a"`,
		"key type alone":          "alice ssh-ed25519",
		"key type lies":           "alice ssh-rsa " + strings.Fields(keyA)[1],
		"key cut short":           "alice " + keyA[:60],
		"key with padding":        "alice " + keyA + "====",
		"DSA":                     "alice ssh-dss AAAAB3NzaC1kc3MAAACB",
		"certificate":             "alice ssh-ed25519-cert-v01@openssh.com AAAA",
		"RSA of 1024 bits":        "alice " + line(t, &weak.PublicKey),
		"two carriage returns":    "alice " + keyA + "\r\r",
		"NUL":                     "alice " + keyA + " c\x00mment",
		"a line without an end ":  "alice " + strings.Repeat(" ", MaxLine) + keyA,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(good + bad)); err == nil {
				t.Errorf("accepted %q", bad)
			} else if !strings.Contains(err.Error(), "line 2") {
				t.Errorf("error does not name the line: %v", err)
			}
		})
	}
	if _, err := Parse(make([]byte, MaxSize+1)); err == nil {
		t.Error("accepted a file beyond the limit")
	}
}

func TestFindNamesTheUsersOfAKey(t *testing.T) {
	file := strings.Join([]string{
		"# registered in November",
		"",
		"alice " + keyA + " alice@laptop",
		"carol,alice " + keyA,
		`bob namespaces="git,cloister-job",valid-after="20260101Z",valid-before="20270101Z" ` + keyB,
	}, "\n")
	l, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if l.Len() != 3 {
		t.Errorf("%d lines, want 3", l.Len())
	}
	june := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		key, namespace string
		at             time.Time
		users          string
		err            error
	}{
		{keyA, "cloister-job", june, "alice, carol", nil},
		{keyB, "cloister-job", june, "bob", nil},
		{keyB, "git", june, "bob", nil},
		{keyB, "file", june, "", ErrUnknown},
		{keyB, "cloister-job", june.AddDate(-1, 0, 0), "", ErrNotNow},
		{keyB, "cloister-job", june.AddDate(1, 0, 0), "", ErrNotNow},
		{keyB, "cloister-job", time.Date(2027, 1, 1, 0, 0, 0, 1, time.UTC), "bob", nil},
	} {
		users, err := l.Find(publicKey(t, c.key), c.namespace, c.at)
		if users.String() != c.users || !errors.Is(err, c.err) {
			t.Errorf("%s at %s: %v, %v; want %v, %v", c.namespace, c.at, users, err, c.users, c.err)
		}
	}
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	k, _ := ssh.NewPublicKey(other)
	if _, err := l.Find(k, "cloister-job", june); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown key: %v", err)
	}
}

func TestPatternsMatchAsOpenSSHsDo(t *testing.T) {
	for _, c := range []struct {
		patterns, user string
		want           bool
	}{
		{"alice", "alice", true},
		{"alice", "alic", false},
		{"alice", "alicea", false},
		{"Alice", "alice", false},
		{"*", "alice", true},
		{"a*e", "alice", true},
		{"a**e", "ae", true},
		{"*li*e*", "alice", true},
		{"*c", "alice", false},
		{"alic?", "alice", true},
		{"alice?", "alice", false},
		{"????", "alice", false},
		{"bob,al*", "alice", true},
		{"*,!alice", "alice", false},
		{"!alice,*", "alice", false},
		{"!bob,*", "alice", true},
		{"!bob", "alice", false},
		{"!*", "alice", false},
		{",alice", "alice", true},
		{strings.Repeat("a*", 500) + "b", strings.Repeat("a", 5000), false}, // exponential, in a naive matcher
	} {
		if got := patternList(c.patterns).matches(c.user); got != c.want {
			t.Errorf("%.40q matches %.40q: %v", c.patterns, c.user, got)
		}
	}
}

func TestEveryServedKeyTypeIsRead(t *testing.T) {
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{line(t, &e.PublicKey)}
	for _, kind := range []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256} {
		k, err := softkey.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(ssh.MarshalAuthorizedKey(k.PublicKey())))
	}
	for _, l := range lines {
		if _, err := Parse([]byte("alice " + l)); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("alice " + keyA + " comment\n"))
	f.Add([]byte(`bob,carol namespaces="cloister-job",valid-after="20260101Z",valid-before="20270101" ` + keyB))
	f.Add([]byte("# comment\n\n"))
	f.Add([]byte(`alice cert-authority ` + keyA))
	f.Add([]byte(`"!bob,al*" cert-authority,namespaces="a\"b,clois*",valid-after="20260101120000utc" ` + keyA + "\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			return
		}
		for _, e := range l.entries {
			key, err := ssh.ParsePublicKey(e.raw)
			if err != nil || CheckKey(key) != nil {
				t.Errorf("accepted a key that is refused alone: %v", err)
			}
			p, err := l.Find(key, "cloister-job", time.Now())
			if err == nil {
				p.Include("alice")
				if strings.ContainsFunc(p.String(), func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("principals %q", p)
				}
			} else if e.namespaces == nil && e.after.IsZero() && e.before.IsZero() && !e.authority {
				t.Errorf("a key without conditions is not found: %v", err)
			}
		}
	})
}
