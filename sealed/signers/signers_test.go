package signers

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
		"pattern star":           "al* " + keyA,
		"pattern question mark":  "alic? " + keyA,
		"negated pattern":        "!bob,alice " + keyA,
		"quoted principal":       `"alice" ` + keyA,
		"empty principal":        "alice,,bob " + keyA,
		"principal not ASCII":    "älice " + keyA,
		"certificate authority":  "alice cert-authority " + keyA,
		"unknown option":         `alice no-touch-required ` + keyA,
		"option twice":           `alice namespaces="a",namespaces="b" ` + keyA,
		"option twice in case":   `alice namespaces="a",NAMESPACES="b" ` + keyA,
		"option without quotes":  `alice namespaces=a ` + keyA,
		"option without value":   `alice namespaces ` + keyA,
		"empty option":           `alice namespaces="a",, ` + keyA,
		"leading comma":          `alice ,namespaces="a" ` + keyA,
		"open quote":             `alice namespaces="a ` + keyA,
		"namespace pattern":      `alice namespaces="clois*" ` + keyA,
		"empty namespace":        `alice namespaces="a," ` + keyA,
		"backslash":              `alice namespaces="a\"" ` + keyA,
		"bad time":               `alice valid-after="20261301" ` + keyA,
		"time in other form":     `alice valid-after="2026-01-01" ` + keyA,
		"times in wrong order":   `alice valid-after="20270101",valid-before="20260101" ` + keyA,
		"no key":                 "alice",
		"key type alone":         "alice ssh-ed25519",
		"key type lies":          "alice ssh-rsa " + strings.Fields(keyA)[1],
		"key cut short":          "alice " + keyA[:60],
		"key with padding":       "alice " + keyA + "====",
		"DSA":                    "alice ssh-dss AAAAB3NzaC1kc3MAAACB",
		"certificate":            "alice ssh-ed25519-cert-v01@openssh.com AAAA",
		"RSA of 1024 bits":       "alice " + line(t, &weak.PublicKey),
		"carriage return":        "alice " + keyA + "\r",
		"NUL":                    "alice " + keyA + " c\x00mment",
		"a line without an end ": "alice " + strings.Repeat(" ", MaxLine) + keyA,
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
		users          []string
		err            error
	}{
		{keyA, "cloister-job", june, []string{"alice", "carol"}, nil},
		{keyB, "cloister-job", june, []string{"bob"}, nil},
		{keyB, "git", june, []string{"bob"}, nil},
		{keyB, "file", june, nil, ErrUnknown},
		{keyB, "cloister-job", june.AddDate(-1, 0, 0), nil, ErrNotNow},
		{keyB, "cloister-job", june.AddDate(1, 0, 0), nil, ErrNotNow},
		{keyB, "cloister-job", time.Date(2027, 1, 1, 0, 0, 0, 1, time.UTC), []string{"bob"}, nil},
	} {
		users, err := l.Find(publicKey(t, c.key), c.namespace, c.at)
		if !slices.Equal(users, c.users) || !errors.Is(err, c.err) {
			t.Errorf("%s at %s: %v, %v; want %v, %v", c.namespace, c.at, users, err, c.users, c.err)
		}
	}
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	k, _ := ssh.NewPublicKey(other)
	if _, err := l.Find(k, "cloister-job", june); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown key: %v", err)
	}
}

// TestStockSSHKeygenAgrees holds what is accepted here against ssh-keygen's
// reading of the same file.
func TestStockSSHKeygenAgrees(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Fatal("install openssh-client: this test compares with the stock ssh-keygen")
	}
	dir := t.TempDir()
	keys := map[string]string{}
	for kind, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"}, "ecdsa256": {"-t", "ecdsa", "-b", "256"}, "ecdsa384": {"-t", "ecdsa", "-b", "384"},
		"ecdsa521": {"-t", "ecdsa", "-b", "521"}, "rsa": {"-t", "rsa", "-b", "2048"},
	} {
		f := filepath.Join(dir, kind)
		run(t, nil, "ssh-keygen", append(args, "-q", "-N", "", "-f", f)...)
		pub, err := os.ReadFile(f + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		keys[kind] = strings.TrimSpace(string(pub))
	}
	message := []byte("message\n")
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.Local)
	for kind, key := range keys {
		msg := filepath.Join(dir, kind+".msg")
		if err := os.WriteFile(msg, message, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, nil, "ssh-keygen", "-q", "-Y", "sign", "-n", "cloister-job", "-f", filepath.Join(dir, kind), msg)
		for _, form := range []string{
			"alice %s",
			"alice,bob %s",
			"\talice\t%s",
			`alice namespaces="cloister-job" %s`,
			`alice Namespaces="git,cloister-job" %s`,
			`alice namespaces="git" %s`,
			`alice valid-after="20260601" %s`,
			`alice valid-after="202606011200" %s`,
			`alice valid-after="20260601120001" %s`,
			`alice valid-before="20260601120000" %s`,
			`alice valid-before="20260601115959" %s`,
			`alice valid-before="20260601000000Z",valid-after="20200101" %s`,
			`alice valid-after="20200101",valid-before="20300101",namespaces="cloister-job" %s`,
			"bob %s",
			"# nothing but a comment\n",
		} {
			text := form
			if strings.Contains(form, "%s") {
				text = fmt.Sprintf(form, key) + "\n"
			}
			file := filepath.Join(dir, "allowed")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := Parse([]byte(text))
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			ours, _ := l.Find(publicKey(t, key), "cloister-job", at)
			opt := "verify-time=" + at.Format("20060102150405")
			cmd := exec.Command("ssh-keygen", "-Y", "verify", "-O", opt, "-f", file, "-I", "alice", "-n", "cloister-job", "-s", msg+".sig")
			cmd.Stdin = bytes.NewReader(message)
			out, err := cmd.CombinedOutput()
			if theirs := err == nil; theirs != slices.Contains(ours, "alice") {
				t.Errorf("%s: %q: ssh-keygen accepts: %v, we name %v\n%s", kind, form, theirs, ours, out)
			}
			if strings.Contains(form, "namespaces=") || strings.Contains(form, "Namespaces=") {
				continue // find-principals does not look at namespaces
			}
			cmd = exec.Command("ssh-keygen", "-Y", "find-principals", "-O", opt, "-f", file, "-s", msg+".sig")
			found, _ := cmd.Output()
			if theirs := strings.TrimSpace(string(found)); theirs != strings.Join(ours, "\n") {
				t.Errorf("%s: %q: ssh-keygen finds %q, we name %v", kind, form, theirs, ours)
			}
		}
	}
}

func TestEveryServedKeyTypeIsRead(t *testing.T) {
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// A security key's public key is an ordinary one with the application
	// behind it (PROTOCOL.u2f).
	ed, _, _ := ed25519.GenerateKey(rand.Reader)
	sk := ssh.Marshal(struct {
		Kind        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, ed, "ssh:"})
	skKey, err := ssh.ParsePublicKey(sk)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{line(t, &e.PublicKey), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(skKey)))} {
		if _, err := Parse([]byte("alice " + l)); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
}

func run(t *testing.T, stdin []byte, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("alice " + keyA + " comment\n"))
	f.Add([]byte(`bob,carol namespaces="cloister-job",valid-after="20260101Z",valid-before="20270101" ` + keyB))
	f.Add([]byte("# comment\n\n"))
	f.Add([]byte(`alice cert-authority ` + keyA))
	f.Add([]byte("al* " + keyA))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			return
		}
		for _, e := range l.entries {
			if err := CheckKey(e.key); err != nil {
				t.Errorf("accepted a key that is refused alone: %v", err)
			}
			for _, p := range e.principals {
				if p == "" || strings.ContainsAny(p, "*?!, \t\n\"\\") {
					t.Errorf("principal %q", p)
				}
			}
			if e.namespaces == nil && e.after.IsZero() && e.before.IsZero() {
				if _, err := l.Find(e.key, "cloister-job", time.Now()); err != nil {
					t.Errorf("a key without conditions is not found: %v", err)
				}
			}
		}
	})
}
