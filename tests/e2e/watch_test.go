//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// sleeps runs a sealed job that sleeps on s2 until somebody ends it.
func sleeps(t *testing.T, s *deploy.Site, name string) uint32 {
	t.Helper()
	if err := s.Seal(t.Context(), "alice", name, readsVolume(name+".luks")+"sleep 1000 || true\n"); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(t.Context(), "alice", "--secure "+name+".sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(t.Context(), "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	return id
}

// noted wants an incident in noded's log on s2.
func noted(t *testing.T, s *deploy.Site, what string) {
	t.Helper()
	var out string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		var err error
		if out, err = s.Output(t.Context(), cluster.S2, "journalctl -q --no-pager -b -u cloister-noded -o cat"); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, "incident:") && strings.Contains(line, what) {
				return
			}
		}
	}
	t.Errorf("noded recorded no incident with %q:\n%s", what, out)
}

func TestALockedNodeIsKeptLockedOrItsSessionEnds(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	id := sleeps(t, s, "watched")
	// As an update of systemd does: neither the job nor the watch ends by it.
	if _, err := s.Output(ctx, cluster.S2, "systemctl daemon-reexec"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, do, gone, noted string }{
		{"a unit is freed and started", "rm /run/cloister/doors-closed && systemctl start ssh.service",
			"systemctl is-active -q ssh.service || pgrep -x sshd", "doors-closed is gone"}, // ssh.service too, unless it was closed before that started
		{"sshd is started by hand", "mkdir -p /run/sshd; systemd-run -q --collect /usr/sbin/sshd -D -p 2222", "pgrep -x sshd", `("sshd"`},
		{"somebody starts a process", "systemd-run -q --collect --uid=bob sleep 4711", "pgrep -u bob", "uid 200"},
		{"the ruleset is flushed", "nft flush ruleset", "! nft list table inet cloister", "packet filter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The commands race with the watch, which may stop them.
			if _, err := s.Run(ctx, cluster.S2, c.do); err != nil {
				t.Fatal(err)
			}
			// An emulated node takes its time to ask systemd; within a second
			// is shown natively, in noded/lockdown.
			r, err := s.Run(ctx, cluster.S2, "for i in $(seq 20); do { "+c.gone+"; } >/dev/null 2>&1 || exit 0; sleep 0.5; done; exit 1")
			if err != nil || r.Exit != 0 {
				t.Errorf("ten seconds later it is still so: %v", err)
			}
			noted(t, s, c.noted)
		})
	}
	if e, err := s.Look(ctx, id); err != nil || e.State != "RUNNING" {
		t.Fatalf("the job did not live through it: %s, %v", e.State, err)
	}

	began := time.Now()
	const swap = "dd if=/dev/zero of=/var/swapfile bs=1M count=8 status=none && chmod 600 /var/swapfile && mkswap -q /var/swapfile && swapon /var/swapfile"
	if _, err := s.Output(ctx, cluster.S2, swap); err != nil {
		t.Fatal(err)
	}
	ended(t, s, id, "swap is on")
	t.Logf("swap ended the job within %s", time.Since(began))
	if _, err := s.Output(ctx, cluster.S2, "swapoff /var/swapfile; rm /var/swapfile"); err != nil {
		t.Fatal(err)
	}
	clean(t, s, cluster.S2)

	id = sleeps(t, s, "deaf")
	if _, err := s.Output(ctx, cluster.S2, "systemctl kill -s KILL dbus.service"); err != nil {
		t.Fatal(err)
	}
	ended(t, s, id, "can no longer be watched")
	if state, err := s.NodeState(ctx, cluster.S2); err != nil || !strings.HasPrefix(state, "drain") {
		t.Errorf("a node that cannot be watched is %s, %v", state, err)
	}
	if left, err := s.Output(ctx, cluster.S2, "dmsetup ls 2>&1 | grep -v '^No devices found'; ls -A /run/cloister/sessions; pgrep -u alice; true"); err != nil || left != "" {
		t.Errorf("of the session there is left: %q, %v", left, err)
	}
}

// ended wants a job that noded ended, and the reason in its log and output.
func ended(t *testing.T, s *deploy.Site, id uint32, why string) {
	t.Helper()
	end, err := s.Wait(t.Context(), "alice", id, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if end.State == "COMPLETED" {
		t.Errorf("job %d completed", id)
	}
	if !strings.Contains(end.Output, why) {
		t.Errorf("the output of job %s does not say %q: %s", fmt.Sprint(id), why, end.Output)
	}
	noted(t, s, why)
}
