//go:build cluster

// Package e2e tests the main job on the real cluster, as its users see it.
package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

const limit = 4 * time.Minute

// readsVolume is a job for the on-demand node that copies its input to its
// output.
func readsVolume(results string) string {
	return `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=in.luks:/data:ro
#CLOISTER volume=` + results + `:/results:rw,create,size=32M
#CLOISTER output=/results/out.txt
cat /data/secret.txt
echo "to stderr" >&2
`
}

// run submits a sealed job and waits for its end.
func run(t *testing.T, s *deploy.Site, who, file string) deploy.Ended {
	t.Helper()
	id, err := s.Submit(t.Context(), who, "--secure -p secure "+file)
	if err != nil {
		t.Fatal(err)
	}
	end, err := s.Wait(t.Context(), who, id, limit)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// clean wants the node idle, with nothing of a session on it, soon.
func clean(t *testing.T, s *deploy.Site, node string) {
	t.Helper()
	var state, left string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		var err error
		if state, err = s.NodeState(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		if left, err = s.Traces(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		if state == "idle" && left == "" {
			return
		}
	}
	t.Errorf("node %s is %s, and on it: %s", node, state, left)
}

func TestAJobRunsOnADedicatedNodeWithAnImageAndItsOutputComesBackEncrypted(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if _, err := s.Output(ctx, cluster.S1, "cloister-noded --check"); err != nil {
		t.Error(err)
	}
	images, err := analysis.Tiny(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary-of-a-patient\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.CopyToLaptop("alice", images.SIF, "tiny.sif"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "alice", "tiny.sif"); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --time=10
#SBATCH --nodelist=s1
#CLOISTER volume=in.luks:/data:ro
#CLOISTER volume=out.luks:/results:rw,create,size=32M
#CLOISTER image=tiny.sif
#CLOISTER output=/results/slurm-%j.out
apptainer -q exec --bind /data tiny.sif /bin/cat /data/secret.txt
echo "arguments: $*"
echo "home: $HOME $(pwd)"
ls -A /shared/home
touch /data/x /usr/x /etc/x 2>/dev/null && echo "wrote where it must not"
echo kept > /results/kept.txt
echo "stderr too" >&2
`
	if err := s.Seal(ctx, "alice", "job", script); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure job.sealed")
	if err != nil {
		t.Fatal(err)
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" || end.Node != cluster.S1 {
		t.Fatalf("the job is %s on %s: %s", end.State, end.Node, end.Output)
	}
	if strings.Contains(end.Output, "canary") || strings.Contains(end.Output, "stderr too") {
		t.Errorf("slurm-%d.out has the job's own output: %s", id, end.Output)
	}
	got, err := s.Results(ctx, "alice", "out.luks", "slurm-"+fmt.Sprint(id)+".out")
	if err != nil {
		t.Fatal(err)
	}
	want := "canary-of-a-patient\narguments: \nhome: /shared/home/alice /shared/home/alice\nalice\nstderr too\n"
	if got != want {
		t.Errorf("the output is %q, want %q", got, want)
	}
	clean(t, s, cluster.S1)
	if out, err := s.Output(ctx, cluster.S1, "nft list table inet cloister | grep -c 'policy drop'; systemctl is-active ssh.service; true"); err != nil || out != "3\ninactive\n" {
		t.Errorf("the dedicated node is not locked after the job: %q, %v", out, err)
	}
}

func TestNodedKilledAndUpgradedUnderARunningJobChangesNothingForTheJob(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "long", readsVolume("long.luks")+"sleep 45\necho survived\n"); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure long.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	for _, blow := range []string{
		"systemctl kill -s KILL cloister-noded.service",
		"systemctl stop cloister-noded.service; systemctl start cloister-noded.service",
	} {
		if _, err := s.Output(ctx, cluster.S2, blow+"; timeout 60 sh -c 'until systemctl is-active -q cloister-noded.service; do sleep 0.5; done'"); err != nil {
			t.Fatal(err)
		}
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" {
		t.Fatalf("the job is %s: %s", end.State, end.Output)
	}
	clean(t, s, cluster.S2)
	got, err := s.Results(ctx, "alice", "long.luks", "out.txt")
	if err != nil || !strings.HasSuffix(got, "survived\n") {
		t.Errorf("the output is %q, %v", got, err)
	}
}

func TestSlurmstepdKilledEndsTheJobAndCleansTheNode(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "orphan", readsVolume("orphan.luks")+"setsid sleep 1000 &\nsleep 1000\n"); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure orphan.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.S2, "pkill -KILL -f 'slurmstepd: \\["+fmt.Sprint(id)+"'"); err != nil {
		t.Fatal(err)
	}
	var left string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		if left, err = s.Traces(ctx, cluster.S2); err != nil {
			t.Fatal(err)
		}
		if left == "" {
			break
		}
	}
	if left != "" {
		t.Errorf("after slurmstepd was killed there is left on the node: %s", left)
	}
	// Slurm itself would have it running until its time limit.
	if end, err := s.Wait(ctx, "alice", id, time.Minute); err != nil || end.State != "CANCELLED" {
		t.Errorf("after slurmstepd was killed the job is %s: %v", end.State, err)
	}
	clean(t, s, cluster.S2)
}
