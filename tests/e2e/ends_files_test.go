//go:build cluster && full

package e2e

import (
	"strings"
	"testing"
	"time"

	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// withHardMount is a site whose s2 waits for its file server as long as it takes,
// as clusters do; the test cluster's mounts give up after a minute.
func withHardMount(t *testing.T) *deploy.Site {
	t.Helper()
	s := deploy.ForTest(t, deploy.Release)
	if _, err := s.Output(t.Context(), cluster.S2, `set -e
mkdir -p /etc/systemd/system/shared.mount.d
printf '[Mount]\nOptions=vers=4.2,sec=sys,hard,timeo=50,retrans=3\n' > /etc/systemd/system/shared.mount.d/hard.conf
systemctl daemon-reload
systemctl -q stop slurmd cloister-noded
systemctl restart shared.mount
systemctl start cloister-noded slurmd
grep ' /shared ' /proc/mounts | grep -q ,hard,`); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// hang has the file server answer s2 no more: packets are lost, and nobody is
// told. The function that it returns ends that.
func hang(t *testing.T, s *deploy.Site) (end func()) {
	t.Helper()
	if _, err := s.Output(t.Context(), cluster.Head, `nft -f - <<'EOT'
table ip hang {
	chain in { type filter hook input priority -300; ip saddr `+cluster.Address(cluster.S2)+` tcp dport 2049 drop; }
	chain out { type filter hook output priority -300; ip daddr `+cluster.Address(cluster.S2)+` tcp sport 2049 drop; }
}
EOT`); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if _, err := s.Output(t.Context(), cluster.Head, "nft delete table ip hang"); err != nil {
			t.Fatal(err)
		}
	}
}

// unmoved wants a noded that was not ended and started anew, and that answers.
func unmoved(t *testing.T, s *deploy.Site) {
	t.Helper()
	if _, _, err := s.Status(t.Context(), cluster.S2); err != nil {
		t.Errorf("noded does not answer: %v", err)
	}
	if out, err := s.Output(t.Context(), cluster.S2, "systemctl show cloister-noded -p NRestarts --value"); err != nil || out != "0\n" {
		t.Errorf("noded was started anew %q times, %v", out, err)
	}
}

func TestASecureJobWaitsForAFileServerThatHangsAndGoesOn(t *testing.T) {
	s := withHardMount(t)
	ctx := t.Context()
	id := onNode(t, s, cluster.S2, "writes", "for i in $(seq 20); do echo $i >> /results/lines; sync /results/lines || exit 9; sleep 1; done\n", "writes.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	end := hang(t, s)
	time.Sleep(time.Minute)
	if out, err := s.Output(ctx, cluster.S2, "ps -o stat= -C sync"); err != nil || !strings.HasPrefix(out, "D") {
		t.Errorf("the job does not wait for its file: %q, %v", out, err)
	}
	unmoved(t, s)
	end()
	endsAs(t, s, id, "COMPLETED")
	clean(t, s, cluster.S2)
	if got, err := s.Results(ctx, "alice", "writes.luks", "lines"); err != nil || !strings.HasPrefix(got, "1\n2\n") || !strings.HasSuffix(got, "\n19\n20\n") {
		t.Errorf("it wrote %q, %v", got, err)
	}

	end = hang(t, s)
	id = onNode(t, s, cluster.S2, "begins", "echo ran\n", "begins.luks:/results:rw,create,size=32M")
	time.Sleep(45 * time.Second)
	unmoved(t, s)
	end()
	endsAs(t, s, id, "COMPLETED")
	clean(t, s, cluster.S2)
	if got, err := s.Results(ctx, "alice", "begins.luks", "begins.txt"); err != nil || got != "ran\n" {
		t.Errorf("it printed %q, %v", got, err)
	}

	// Longer than an admission may take.
	end = hang(t, s)
	id = onNode(t, s, cluster.S2, "late", "echo ran\n", "late.luks:/results:rw,create,size=32M")
	time.Sleep(150 * time.Second)
	unmoved(t, s)
	end()
	if e := endsAs(t, s, id, "FAILED"); !strings.Contains(e.Output, "refused in phase") {
		t.Errorf("a job whose files did not answer is told %s", e.Output)
	}
	clean(t, s, cluster.S2)
	serves(t, s, cluster.S2, "after-late")
}

func TestASecureJobThatEndsWhileTheFileServerHangsLosesNothingSyncedAndItsNodeIsFencedUntilThen(t *testing.T) {
	s := withHardMount(t)
	ctx := t.Context()
	id := onNode(t, s, cluster.S2, "hangs", stubborn+"sleep 5\nwhile :; do date >> /results/lines; sync /results/lines; done\n", "hangs.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.S2, "timeout 60 sh -c 'until pgrep -x sync; do :; done'"); err != nil {
		t.Fatal(err)
	}
	end := hang(t, s)
	time.Sleep(5 * time.Second)
	// slurmstepd waits for slurm-%j.out, to say there that the job was cancelled,
	// and ends nothing before it could.
	onHead("scancel %d")(t, s, id)
	time.Sleep(20 * time.Second)
	unmoved(t, s)
	if state, err := s.NodeState(ctx, cluster.S2); err != nil || state != "completing" {
		t.Errorf("the node is %s, %v", state, err)
	}
	r, err := s.Run(ctx, cluster.S2, "cloister node release", cluster.Timeout(10*time.Minute))
	t.Logf("%+v", r)
	if err != nil || r.Exit != 3 {
		t.Errorf("a release that cannot succeed: %+v, %v", r, err)
	}
	unmoved(t, s)
	st, exit, err := s.Status(ctx, cluster.S2)
	if err != nil || exit != 3 || st.State != status.Fenced || !st.Locked || !st.Fence.Drained {
		t.Errorf("the node: %d, %+v, %v", exit, st, err)
	}
	if out, err := s.Output(ctx, cluster.Head, "timeout 30 sinfo -h -N -n s2 -o '%T %E'"); err != nil || !strings.HasPrefix(out, "drain") || !strings.Contains(out, "cloister: a secure session could not be undone") {
		t.Errorf("Slurm has the node as %q, %v", out, err)
	}
	out, _ := s.Output(ctx, cluster.S2, "dmsetup table; cloister node status; ps -eo pid,stat,user,wchan:30,args | grep -E ' D|alice'")
	t.Logf("%s", out)
	end()
	var recovered cluster.Result
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Second) {
		if recovered, err = s.Run(ctx, cluster.S2, "cloister node recover", cluster.Timeout(10*time.Minute)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", recovered)
		if recovered.Exit == 0 {
			break
		}
	}
	if recovered.Exit != 0 {
		t.Errorf("after the server came back the node is not recovered: %+v", recovered)
	}
	endsAs(t, s, id, "CANCELLED")
	clean(t, s, cluster.S2)
	kept(t, s, "hangs.luks")
	serves(t, s, cluster.S2, "after-hangs")
}
