//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// startsSteps is the body of a job that uses srun as people do. Each line of
// its output says what was found; a step that fails shows.
const startsSteps = `
cd /data
n=0; for i in $(seq 20); do srun --overlap -n1 true && n=$((n+1)); done; echo "in a row: $n"
x=$(srun --overlap -n1 cat /data/secret.txt); echo "captured: $x"
export CLOISTER_TEST='two
lines; $HOME "quoted"'
srun --overlap -n1 sh -c 'echo "exported: $CLOISTER_TEST"; echo "in: $(pwd) as step $SLURM_STEP_ID task $SLURM_PROCID"'
echo piped | srun --overlap -n1 tr a-z A-Z
for i in 1 2 3 4; do srun --overlap -n1 sh -c 'sleep 1; echo done' > /results/par.$i & done; wait
echo "in parallel: $(cat /results/par.* | grep -c done)"
srun --overlap -n2 --overcommit -o /results/step-%s.%t sh -c 'echo "task $SLURM_PROCID of $SLURM_JOB_ID"'
cat /results/step-*.0 /results/step-*.1
srun --overlap -n1 -o /shared/home/alice/leak.%t cat /data/secret.txt; cat /shared/home/alice/leak.*
srun --overlap -n1 -o /tmp/leak.%t cat /data/secret.txt
srun --overlap -n1 --chdir=/results true 2>/dev/null || echo "chdir refused"
srun --overlap -n1 --export=NONE true 2>/dev/null || echo "export refused"
srun --overlap -n1 sh -c 'kill -9 $$' 2>/dev/null; echo "killed: $?"
script -qec 'srun --overlap -n1 --pty tty' /dev/null
srun --overlap -n1 sh -c 'ls /run; cat /shared/home/alice/leak.0; id -un; touch /etc/x 2>/dev/null && echo wrote' 2>&1
grep -c CapBnd:.0000000000000000 /proc/self/status; srun --overlap -n1 grep -c CapBnd:.0000000000000000 /proc/self/status
`

func TestStepsRunInTheSessionAndTheirOutputStaysInTheVolume(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary-of-a-patient\n"}); err != nil {
		t.Fatal(err)
	}
	// Each srun listens on three ports.
	if _, err := s.Output(ctx, cluster.S2, "sed -i 's/^SrunPortRange=.*/SrunPortRange=60001-60040/' /etc/slurm/slurm.conf"); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "steps", readsVolume("steps.luks")+startsSteps+"sleep 7\n"); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure steps.sealed")
	if err != nil {
		t.Fatal(err)
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" {
		t.Fatalf("the job is %s on %s: %s", end.State, end.Node, end.Output)
	}
	got, err := s.Results(ctx, "alice", "steps.luks", "out.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"in a row: 20\n", "captured: canary-of-a-patient\n", "exported: two\nlines; $HOME \"quoted\"\n", "in: /data as step ", "PIPED\n",
		"in parallel: 4\n", fmt.Sprintf("task 0 of %d\ntask 1 of %d\n", id, id), "chdir refused\n", "export refused\n", "killed: 137\n", "/dev/pts/",
		"cloister\nmunge\ncanary-of-a-patient\nalice\n", "\n1\n1\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("the output is\n%s\nslurm-%d.out is\n%s", got, id, end.Output)
	}
	if strings.Contains(end.Output, "canary") || strings.Contains(end.Output, "task 0") {
		t.Errorf("slurm-%d.out has the steps' output: %s", id, end.Output)
	}
	for _, node := range []string{cluster.Head, cluster.S2} {
		if out, err := s.Output(ctx, node, "grep -rl canary-of-a-patient /tmp /var/tmp /shared /home /dev/shm /var/spool 2>/dev/null; true"); err != nil || out != "" {
			t.Errorf("on %s there is plaintext outside of the volume: %q, %v", node, out, err)
		}
	}
	clean(t, s, cluster.S2)
}

func TestAStepGoesOnWhenNodedIsKilledAndEndsWithTheSession(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	body := `srun --overlap -n1 sh -c 'sleep 20; echo "first step: $?"' & first=$!
sleep 8; wait $first
srun --overlap -n1 echo "second step"
srun --overlap -n1 -o /results/held sleep 1000 &
sleep 5
`
	if err := s.Seal(ctx, "alice", "held", readsVolume("held.luks")+body); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure held.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.S2, "timeout 60 sh -c 'until pgrep -x -f \"sleep 20\"; do sleep 0.2; done'"); err != nil {
		t.Fatal("the first step does not run: ", err)
	}
	if _, err := s.Output(ctx, cluster.S2, "systemctl kill -s KILL cloister-noded.service; timeout 60 sh -c 'sleep 1; until systemctl is-active -q cloister-noded.service; do sleep 0.5; done'"); err != nil {
		t.Fatal(err)
	}
	// A step from outside, while one from inside runs. Its srun gets no answer:
	// a locked node opens no connection to it.
	r, err := s.RunAs(ctx, "alice", cluster.Head, fmt.Sprintf("timeout 15 srun --jobid=%d --overlap -n1 cat /data/secret.txt 2>&1", id))
	if err != nil {
		t.Fatal(err)
	}
	if r.Exit == 0 || strings.Contains(r.Stdout, "canary") {
		t.Errorf("a step from outside: exit status %d, %s", r.Exit, r.Stdout)
	}
	if _, err := s.Output(ctx, cluster.S2, "journalctl -u cloister-noded -o cat | grep incident: | grep -F 'does not prove that it was started inside'"); err != nil {
		t.Errorf("noded records no incident for a step from outside: %v", err)
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" {
		t.Fatalf("the job is %s: %s", end.State, end.Output)
	}
	got, err := s.Results(ctx, "alice", "held.luks", "out.txt")
	if err != nil || !strings.Contains(got, "first step: 0\n") || !strings.Contains(got, "second step\n") {
		t.Errorf("the output is %q, %v", got, err)
	}
	clean(t, s, cluster.S2)
}
