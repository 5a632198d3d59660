//go:build cluster

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// The identity is encrypted to the machine, as an administrator does it: with
// the stock systemd-creds and the example's drop-in.
func TestAnIdentityIsRotatedUnderQueuedJobsAndTheOldOneEnds(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	const restart = "systemctl restart cloister-noded && systemctl is-active cloister-noded\n"
	onNode := func(script string) string {
		t.Helper()
		out, err := s.Output(ctx, cluster.S2, "set -e\n"+script)
		if err != nil {
			log, _ := s.Output(ctx, cluster.S2, "journalctl -q -b -n 30 -u cloister-noded")
			t.Fatalf("%v\n%s", err, log)
		}
		return strings.TrimSpace(out)
	}
	ends := func(job uint32, state, words string) {
		t.Helper()
		end, err := s.Wait(ctx, "alice", job, limit)
		if err != nil {
			t.Fatal(err)
		}
		if end.State != state || !strings.Contains(end.Output, words) {
			t.Errorf("the job is %s, want %s and %q: %s", end.State, state, words, end.Output)
		}
		clean(t, s, cluster.S2)
	}
	seal := func(name string) {
		t.Helper()
		if err := s.Seal(ctx, "alice", name, queued+"#CLOISTER volume="+name+".luks:/results:rw,create,size=32M\necho hello\n"); err != nil {
			t.Fatal(err)
		}
	}
	submit := func(name, args string) uint32 {
		t.Helper()
		job, err := s.Submit(ctx, "alice", "--secure "+args+" "+name+".sealed")
		if err != nil {
			t.Fatal(err)
		}
		return job
	}

	example, err := filepath.Abs("../../systemd/examples/noded-encrypted-identity.conf")
	if err != nil {
		t.Fatal(err)
	}
	onNode("mkdir -p /etc/systemd/system/cloister-noded.service.d")
	if err := s.Put(ctx, cluster.S2, example, "/etc/systemd/system/cloister-noded.service.d/identity.conf", 0o644); err != nil {
		t.Fatal(err)
	}
	onNode(`cd /etc/cloister
systemd-creds encrypt --name=identity identity identity.cred
chmod 600 identity.cred
shred -u identity
! grep -q AGE-SECRET-KEY identity.cred
systemctl daemon-reload
` + restart)

	for _, name := range []string{"old", "late"} {
		seal(name)
	}
	// It waits in the queue while the identity is replaced.
	old := submit("old", "--hold")
	recipient := onNode("cloister node keygen --rotate --keep 14d -o /etc/cloister/identity.cred\n" + restart)
	recipient = strings.TrimSpace(strings.TrimSuffix(recipient, "active"))
	sealTo(t, s, recipient)
	seal("new")
	if _, err := s.OutputAs(ctx, "alice", cluster.Login, fmt.Sprintf("scontrol release %d", old)); err != nil {
		t.Fatal(err)
	}
	ends(old, "COMPLETED", "exit status 0")
	ends(submit("new", ""), "COMPLETED", "exit status 0")

	// The next rotation shortens the first one's life. What is over is
	// refused without another restart.
	onNode("cloister node keygen --rotate --keep 2s -o /etc/cloister/identity.cred\n" + restart)
	time.Sleep(3 * time.Second)
	ends(submit("late", ""), "FAILED", "this job was not encrypted to this node")
}

// sealTo has alice's laptop seal to another recipient of on-demand nodes.
func sealTo(t *testing.T, s *deploy.Site, recipient string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(s.Home("alice")), "site.toml"))
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(b), "[class.on-demand]\nrecipients = [\"")
	_, rest, closed := strings.Cut(after, "\"]")
	if !found || !closed {
		t.Fatalf("the site file has no on-demand nodes: %s", b)
	}
	if err := s.Write("alice", "site.toml", before+"[class.on-demand]\nrecipients = [\""+recipient+"\"]"+rest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Laptop(t.Context(), "alice", "site", "add", "--replace", "site.toml"); err != nil {
		t.Fatal(err)
	}
}
