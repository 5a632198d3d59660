//go:build cluster

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// Each bad input gives the user one message with phase, cause and next step, a
// failed job, an idle node and nothing left on it.
func TestBadInputIsRefusedInPlainWordsAndLeavesTheNodeClean(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	seal := func(t *testing.T, who, name string, options ...string) {
		t.Helper()
		if err := s.Seal(ctx, who, name, readsVolume(name+".luks"), options...); err != nil {
			t.Fatal(err)
		}
	}
	on := func(t *testing.T, node, script string) {
		t.Helper()
		if _, err := s.Output(ctx, node, script); err != nil {
			t.Fatal(err)
		}
	}
	home := deploy.Home("alice")

	for _, c := range []struct {
		name    string
		prepare func(t *testing.T)
		who     string
		submit  string
		says    []string
		after   func(t *testing.T)
	}{
		{
			name: "an unsigned script",
			prepare: func(t *testing.T) {
				if err := s.Write("alice", "plain.sh", "#!/bin/sh\n#SBATCH -p secure -w s2\ntouch "+home+"/plain-ran\n"); err != nil {
					t.Fatal(err)
				}
				if err := s.Upload(ctx, "alice", "plain.sh"); err != nil {
					t.Fatal(err)
				}
			},
			submit: "plain.sh",
			says:   []string{"phase admit", "not a sealed job", "next: seal the script"},
			after:  func(t *testing.T) { on(t, cluster.Head, "! test -e "+home+"/plain-ran") },
		},
		{
			name:    "a script sealed by an unknown key",
			prepare: func(t *testing.T) { sealWithoutVolumeOf(t, s, "carol", "unknown") },
			who:     "carol",
			submit:  "unknown.sealed",
			says:    []string{"phase admit", "not registered on this node", "next: "},
		},
		{
			name: "one changed byte in the encrypted part",
			prepare: func(t *testing.T) {
				seal(t, "alice", "changed")
				flip(t, s, "changed.sealed", "-----BEGIN AGE ENCRYPTED FILE-----\n", 200)
			},
			submit: "changed.sealed",
			says:   []string{"phase admit", "altered", "next: "},
		},
		{
			name: "one changed byte in the signature",
			prepare: func(t *testing.T) {
				seal(t, "alice", "changedsig")
				flip(t, s, "changedsig.sealed", "-----BEGIN SSH SIGNATURE-----\n", 250)
			},
			submit: "changedsig.sealed",
			says:   []string{"phase admit", "next: "},
		},
		{
			name: "an expired job",
			prepare: func(t *testing.T) {
				seal(t, "alice", "expired", "--expires", "5s")
				time.Sleep(6 * time.Second)
			},
			submit: "expired.sealed",
			says:   []string{"phase admit", "expired on", "next: seal"},
		},
		{
			name: "a key server that is down",
			prepare: func(t *testing.T) {
				seal(t, "alice", "nokms")
				on(t, cluster.Head, "systemctl stop cloister-kms")
			},
			submit: "nokms.sealed",
			says:   []string{"phase keys", "cannot be reached", "next: "},
			after: func(t *testing.T) {
				on(t, cluster.Head, "systemctl start cloister-kms")
				// Nothing was used up: the same sealed job runs now.
				end := run(t, s, "alice", "nokms.sealed")
				if end.State != "COMPLETED" {
					t.Errorf("the same sealed job later: %s: %s", end.State, end.Output)
				}
			},
		},
		{
			name: "a missing volume",
			prepare: func(t *testing.T) {
				seal(t, "alice", "missing")
				on(t, cluster.Head, "mv "+home+"/in.luks "+home+"/away.luks")
			},
			submit: "missing.sealed",
			says:   []string{"phase admit", "in.luks", "no such file", "next: put the file"},
			after:  func(t *testing.T) { on(t, cluster.Head, "mv "+home+"/away.luks "+home+"/in.luks") },
		},
		{
			name: "a wrong volume",
			prepare: func(t *testing.T) {
				seal(t, "alice", "wrong")
				on(t, cluster.Head, "cp -a "+home+"/in.luks /root/in.luks && head -c $(stat -c %s "+home+"/in.luks) /dev/urandom > "+home+"/in.luks")
			},
			submit: "wrong.sealed",
			says:   []string{"phase unlock", "in.luks", "next: "},
			after: func(t *testing.T) {
				on(t, cluster.Head, "cp -a /root/in.luks "+home+"/in.luks; ! test -e "+home+"/wrong.luks")
			},
		},
		{
			name: "noded not running",
			prepare: func(t *testing.T) {
				seal(t, "alice", "nonoded")
				on(t, cluster.S2, "systemctl stop cloister-noded.socket cloister-noded.service")
			},
			submit: "nonoded.sealed",
			says:   []string{"phase hand-off", "cloister-noded", "next: "},
			after:  func(t *testing.T) { on(t, cluster.S2, "systemctl start cloister-noded.socket cloister-noded.service") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.prepare(t)
			who := c.who
			if who == "" {
				who = "alice"
			}
			end := run(t, s, who, c.submit)
			if c.after != nil {
				defer c.after(t)
			}
			if end.State != "FAILED" {
				t.Errorf("the job is %s: %s", end.State, end.Output)
			}
			for _, words := range c.says {
				if !strings.Contains(end.Output, words) {
					t.Errorf("the output does not say %q: %s", words, end.Output)
				}
			}
			clean(t, s, cluster.S2)
		})
	}
}

// sealWithoutVolumeOf gives the user a volume of her own, because nobody can
// seal a job for another's.
func sealWithoutVolumeOf(t *testing.T, s *deploy.Site, who, name string) {
	t.Helper()
	if err := s.MakeVolume(t.Context(), who, "in.luks", map[string]string{"secret.txt": "hers\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(t.Context(), who, name, readsVolume(name+".luks")); err != nil {
		t.Fatal(err)
	}
}

// flip changes one letter of an uploaded sealed job, offset bytes after a line.
func flip(t *testing.T, s *deploy.Site, file, line string, offset int) {
	t.Helper()
	path := filepath.Join(s.LaptopDir("alice"), file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(b), line)
	if i < 0 {
		t.Fatalf("%s has no line %q", file, line)
	}
	i += len(line) + offset
	if b[i] == '\n' {
		i++
	}
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(t.Context(), "alice", file); err != nil {
		t.Fatal(err)
	}
}
