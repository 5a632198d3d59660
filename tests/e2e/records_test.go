//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/noded/audit"
	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// nodeStatus asks s2 and wants this exit status.
func nodeStatus(t *testing.T, s *deploy.Site, exit int) *status.Status {
	t.Helper()
	st, got, err := s.Status(t.Context(), cluster.S2)
	if err != nil || got != exit {
		t.Fatalf("exit status %d, want %d: %v", got, exit, err)
	}
	return st
}

// within waits for a script to succeed on s2.
func within(t *testing.T, s *deploy.Site, seconds int, what, script string) {
	t.Helper()
	r, err := s.Run(t.Context(), cluster.S2, fmt.Sprintf("for i in $(seq %d); do { %s; } >/dev/null 2>&1 && exit 0; sleep 1; done; exit 1", seconds, script))
	if err != nil || r.Exit != 0 {
		t.Fatalf("not within %d s: %s: %v", seconds, what, err)
	}
}

func TestRecordsTellOfAJobAndOfWhatWasDoneToItsNode(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.Write("bob", "plain.sh", "#!/bin/sh\n#SBATCH --nodelist=s2\necho ran\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "bob", "plain.sh"); err != nil {
		t.Fatal(err)
	}
	if end := run(t, s, "bob", "plain.sh"); end.State != "FAILED" {
		t.Fatalf("an unsigned job is %s", end.State)
	}
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	id := sleeps(t, s, "recorded")
	st := nodeStatus(t, s, 0)
	if st.State != status.InService || !st.Locked || st.Session == nil || st.Session.Job != id || st.Session.User != "alice" || st.Session.Phase != "run" || st.Events["refused"] == 0 {
		t.Errorf("during the job the status is %+v, session %+v", st, st.Session)
	}
	early := st.Head

	if _, err := s.Output(ctx, cluster.S2, "nft flush ruleset"); err != nil {
		t.Fatal(err)
	}
	within(t, s, 10, "the rules are back", "nft list table inet cloister")
	noted(t, s, "packet filter")
	if n := nodeStatus(t, s, 0).Count(audit.RulesChanged).Boot; n != 1 {
		t.Errorf("%d incidents of the packet filter are counted, want 1", n)
	}

	// A noded that is stuck is ended by systemd; the job does not notice.
	began := time.Now()
	if _, err := s.Output(ctx, cluster.S2, "systemctl show -p MainPID --value cloister-noded > /run/stuck && kill -STOP $(cat /run/stuck)"); err != nil {
		t.Fatal(err)
	}
	within(t, s, 80, "noded is started anew", "cloister node status && [ $(systemctl show -p MainPID --value cloister-noded) != $(cat /run/stuck) ]")
	t.Logf("a stuck noded was replaced after %.0f s", time.Since(began).Seconds())
	if e, err := s.Look(ctx, id); err != nil || e.State != "RUNNING" {
		t.Fatalf("the job did not live through it: %s, %v", e.State, err)
	}
	st = nodeStatus(t, s, 0)
	if st.Session == nil || st.Session.Job != id || st.Count(audit.RulesChanged).Boot != 1 {
		t.Errorf("noded forgot: %+v, session %+v", st, st.Session)
	}
	out, err := s.Output(ctx, cluster.S2, "grep VmRSS /proc/$(systemctl show -p MainPID --value cloister-noded)/status; cut -d' ' -f14,15 /proc/$(systemctl show -p MainPID --value cloister-noded)/stat; sleep 10; cut -d' ' -f14,15 /proc/$(systemctl show -p MainPID --value cloister-noded)/stat")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("memory, and processor ticks (10 ms) ten seconds apart: %q", out)

	// Something holds a volume when the job ends: the node is given up.
	if _, err := s.Output(ctx, cluster.S2, "d=$(dmsetup ls | grep -o '^cloister-[^ \t]*-1-authenc') && systemd-run -q --unit=holder sh -c \"exec sleep 1000 < /dev/$(dmsetup info -c --noheadings -o blkdevname $d)\""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("scancel %d", id)); err != nil {
		t.Fatal(err)
	}
	within(t, s, 120, "the node is given up", "[ $(cloister node status --json | grep -c '\"drained\": true') = 1 ]")
	st = nodeStatus(t, s, 3)
	if st.State != status.Fenced || !st.Locked || !strings.Contains(st.Fence.Detail, "still in use") {
		t.Errorf("the status of a fenced node is %+v, %+v", st, st.Fence)
	}
	if state, err := s.NodeState(ctx, cluster.S2); err != nil || !strings.HasPrefix(state, "drain") {
		t.Errorf("Slurm has the node %s, %v", state, err)
	}
	if out, err := s.Output(ctx, cluster.S2, "nft list table inet cloister | grep -c 'policy drop'; systemctl is-active ssh.service; true"); err != nil || out != "3\ninactive\n" {
		t.Errorf("the fenced node is not locked: %q, %v", out, err)
	}
	r, err := s.Run(ctx, cluster.S2, "cloister node status")
	if err != nil || r.Exit != 3 || !strings.Contains(r.Stderr, "cloister node recover") {
		t.Errorf("it does not say what to do: %s%s", r.Stdout, r.Stderr)
	}
	out, err = s.Output(ctx, cluster.S2, "systemctl stop holder; cloister node recover; journalctl -q -b -o cat CLOISTER_EVENT=fenced | grep -c 'could not be undone'")
	if err != nil || !strings.Contains(out, "this node is in service\n1\n") {
		t.Fatalf("it was not recovered: %q, %v", out, err)
	}
	t.Logf("recovery:\n%s", out)
	clean(t, s, cluster.S2)

	verifies(t, s, early)

	// As docs/admin.md says it; the guest has no curl.
	out, err = s.Output(ctx, cluster.S2, `set -e
systemctl -q enable cloister-metrics.socket
systemctl stop cloister-noded; systemctl start cloister-metrics.socket cloister-noded
perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => "/run/cloister-metrics.sock") or die; print $s "GET /metrics HTTP/1.0\r\n\r\n"; print <$s>'`)
	if err != nil || !strings.Contains(out, "cloister_incidents_total{kind=\"rules-changed\"} 1\n") {
		t.Errorf("Prometheus gets %q, %v", out, err)
	}
	if st := nodeStatus(t, s, 0); st.State != status.InService {
		t.Errorf("afterwards the node is %s", st.State)
	}
}

// verifies checks the records of s2, as they are and as somebody altered them.
func verifies(t *testing.T, s *deploy.Site, early string) {
	t.Helper()
	ctx := t.Context()
	out, err := s.Output(ctx, cluster.S2, "cloister audit verify && cloister audit verify --head "+early)
	if err != nil || !strings.Contains(out, "incidents: 1, the packet filter was changed") || !strings.HasSuffix(out, "it holds the record that was noted\n") {
		t.Fatalf("the node's records are not whole: %s, %v", out, err)
	}
	t.Logf("verify:\n%s", out)
	for _, event := range []string{"refused", "admitted", "done", "running", "incident", "adopted", "ended", "undone", "fenced", "recovered"} {
		n, err := s.Output(ctx, cluster.S2, fmt.Sprintf("cat /var/lib/cloister/audit/* | grep -c '\"event\":\"%s\"'; true", event))
		if err != nil || n == "0\n" {
			t.Errorf("no record of %q", event)
		}
		j, err := s.Output(ctx, cluster.S2, "journalctl -q -b -o cat --output-fields=CLOISTER_HEAD CLOISTER_EVENT="+event+" | grep -c :")
		if err != nil || j != n {
			t.Errorf("of %q the file has %s records, the journal %s: %v", event, strings.TrimSpace(n), strings.TrimSpace(j), err)
		}
	}
	for name, c := range map[string]struct{ do, says string }{
		"changed":   {`sed -i '0,/"user":"alice"/s//"user":"nobody"/'`, "was changed"},
		"removed":   {"sed -i 5d", "record 5 removed"},
		"reordered": {`sed -i -n '5{h;d};6{p;g};p'`, "moved"},
		"cut":       {`sed -i '$d'`, "removed from the end"},
	} {
		r, err := s.Run(ctx, cluster.S2, "rm -rf /root/copy && cp -a /var/lib/cloister/audit /root/copy && head=$(cloister audit verify /root/copy | sed -n 's/^head //p') && "+
			c.do+" /root/copy/records-*1.jsonl && cloister audit verify /root/copy --head $head")
		if err != nil || r.Exit != 3 || !strings.Contains(r.Stdout, c.says) {
			t.Errorf("%s: exit status %d: %s%s, %v", name, r.Exit, r.Stdout, r.Stderr, err)
		}
	}
}
