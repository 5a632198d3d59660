//go:build cluster && full

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// The lock must leave Slurm and the file server what they need, under load and
// for as long as a job lasts: slurmctld gives a node up that does not answer
// for SlurmdTimeout.
func TestSlurmAndFileServersWorkThroughTheLockUnderLoad(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	do := func(node, script string) string {
		t.Helper()
		out, err := s.Output(ctx, node, script)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const size = 24 << 20
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n", "big": strings.Repeat("0123456789abcde\n", size/16)}); err != nil {
		t.Fatal(err)
	}
	const asks = 15
	script := readsVolume("load.luks") + fmt.Sprintf(`dd if=/data/big bs=1M 2>/dev/null | wc -c
dd if=/dev/zero of=/results/zero bs=1M count=16 conv=fsync 2>/dev/null && echo written
n=0
for i in $(seq %d); do
	timeout 60 sinfo -h | grep -q secure && timeout 60 squeue -h -o %%A | grep -qx $SLURM_JOB_ID && n=$((n+1))
done
echo $n answers
timeout 60 scontrol ping | grep -c 'is UP'
sleep 1000 || true
`, asks)
	if err := s.Seal(ctx, "alice", "load", script); err != nil {
		t.Fatal(err)
	}
	// A short SlurmdTimeout, at the controller alone.
	const timeout = 30
	do(cluster.Head, fmt.Sprintf("sed -i 's/^SlurmdTimeout=.*/SlurmdTimeout=%d/' /etc/slurm/slurm.conf && systemctl restart slurmctld", timeout))
	if err := s.WaitIdle(ctx); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure load.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}

	// Another minor version is another client to the kernel: a connection of
	// its own, opened through the lock.
	const fresh = `set -e
mkdir -p /mnt/fresh
before=$(ss -tnH dst 10.77.0.10:2049 | wc -l)
mount -t nfs4 -o vers=4.1,soft,timeo=50,retrans=3 head:/shared /mnt/fresh
after=$(ss -tnH dst 10.77.0.10:2049 | wc -l)
dd if=/mnt/fresh/scratch/big of=/dev/null bs=1M 2>/dev/null
cp /mnt/fresh/scratch/big /mnt/fresh/scratch/copy-$(hostname)
cmp /mnt/fresh/scratch/big /mnt/fresh/scratch/copy-$(hostname)
umount /mnt/fresh
echo $((after - before))`
	do(cluster.Head, "head -c 16M /dev/urandom > /shared/scratch/big; chmod 644 /shared/scratch/big; chmod 1777 /shared/scratch")
	for _, node := range []string{cluster.S1, cluster.S2} {
		if out := strings.TrimSpace(do(node, fresh)); out != "1" {
			t.Errorf("a fresh mount on %s opened %s connections, not one", node, out)
		}
	}
	if out := do(cluster.S2, "timeout 60 scontrol ping"); !strings.Contains(out, "is UP") {
		t.Errorf("the locked node does not reach the controller: %q", out)
	}

	// Others go on.
	if out, err := s.OutputAs(ctx, "bob", cluster.Login, "timeout 60 srun -p batch -w n1 hostname"); err != nil || out != "n1\n" {
		t.Errorf("srun on another node during the session: %q, %v", out, err)
	}
	other, err := s.Submit(ctx, "bob", "-p batch -w n1 --wrap 'srun hostname'")
	if err != nil {
		t.Fatal(err)
	}
	if end, err := s.Wait(ctx, "bob", other, limit); err != nil || end.State != "COMPLETED" || end.Output != "n1\n" {
		t.Errorf("sbatch on another node during the session: %+v, %v", end, err)
	}

	// n1 is cut off from Slurm, so that it shows what a lost node looks like.
	do(cluster.N1, "nft add table inet cut && nft 'add chain inet cut in { type filter hook input priority 0; }' && nft add rule inet cut in tcp dport 6818 drop")
	lost := ""
	for end := time.Now().Add(6 * timeout * time.Second); time.Now().Before(end) && lost == ""; time.Sleep(2 * time.Second) {
		state, err := s.NodeState(ctx, cluster.N1)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(state, "down") {
			lost = state
		}
	}
	if lost == "" {
		t.Error("Slurm never gave up a node that was cut off: the rest shows nothing")
	}
	for node, want := range map[string]string{cluster.S1: "idle", cluster.S2: "allocated"} {
		if state, err := s.NodeState(ctx, node); err != nil || state != want {
			t.Errorf("when Slurm gave n1 up, the locked node %s was %s, %v", node, state, err)
		}
	}
	do(cluster.N1, "nft delete table inet cut")

	do(cluster.S2, "pkill -x sleep -u alice")
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" {
		t.Fatalf("the job is %s: %s", end.State, end.Output)
	}
	got, err := s.Results(ctx, "alice", "load.luks", "out.txt")
	if err != nil {
		t.Fatal(err)
	}
	// bash tells of the sleep that was killed.
	want := fmt.Sprintf("canary\nto stderr\n%d\nwritten\n%d answers\n1\nTerminated\n", size, asks)
	if got != want {
		t.Errorf("the job's output is %q, want %q", got, want)
	}
	clean(t, s, cluster.S2)
}
