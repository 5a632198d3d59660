//go:build cluster && full

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// plain submits an ordinary job of bob's.
func plain(t *testing.T, s *deploy.Site, name, options, body string) uint32 {
	t.Helper()
	if err := s.Write("bob", name+".sh", "#!/bin/bash\n"+body); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(t.Context(), "bob", name+".sh"); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(t.Context(), "bob", options+" "+name+".sh")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// ordinaryEnds wants an ordinary job of bob's to end as it is said.
func ordinaryEnds(t *testing.T, s *deploy.Site, job uint32, state string) deploy.Ended {
	t.Helper()
	e, err := s.Wait(t.Context(), "bob", job, limit)
	if err != nil {
		t.Fatal(err)
	}
	if e.State != state {
		t.Errorf("the ordinary job %d is %s, not %s: %s", job, e.State, state, e.Output)
	}
	return e
}

// urgent adds a partition whose jobs preempt those of the secure one on s2.
func urgent(mode string) string {
	return fmt.Sprintf(`sed -i '/^Preempt/d; /^PartitionName=urgent/d' /etc/slurm/slurm.conf
printf '%%s\n' PreemptType=preempt/partition_prio PreemptMode=%s \
	'PartitionName=urgent Nodes=s2 PriorityTier=10 PreemptMode=OFF OverSubscribe=EXCLUSIVE State=UP' >> /etc/slurm/slurm.conf`, mode)
}

func TestASecureJobThatIsPreemptedIsClosedBeforeTheOtherStartsAndRunsAgainIfItWasSealedFor(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	slurmConf(t, s, []string{cluster.Head}, urgent("REQUEUE"))
	// The other sees nothing of it: it would be refused beside a session.
	const other = "ls -A /dev/mapper; pgrep -u alice; exit 0\n"
	const waits = "while :; do sleep 1000; done\n"
	const once = `[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0` + "\n"
	for _, c := range []struct {
		name, mode, directives string
		volume, body           string
		state, says            string
		volumes                []string // with what the job had synced
	}{
		{"cancel", "CANCEL", "", "cancel-0.luks", stubborn + waits, "PREEMPTED", "DUE TO PREEMPTION", []string{"cancel-0.luks"}},
		{"requeue", "REQUEUE", "#SBATCH --requeue\n#CLOISTER requeue=1\n", "requeue-%r.luks", stubborn + once + waits, "COMPLETED", "exit status 0", []string{"requeue-0.luks", "requeue-1.luks"}},
		{"unforeseen", "REQUEUE", "", "unforeseen-0.luks", stubborn + waits, "FAILED", "already run here: each runs once", []string{"unforeseen-0.luks"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := s.Seal(ctx, "alice", c.name, queued+c.directives+"#CLOISTER volume="+c.volume+":/results:rw,create,size=32M\n"+c.body); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Output(ctx, cluster.Head, "timeout 60 scontrol update partitionname=secure preemptmode="+c.mode); err != nil {
				t.Fatal(err)
			}
			id, err := s.Submit(ctx, "alice", "--secure "+c.name+".sealed")
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
				t.Fatal(err)
			}
			if e := ordinaryEnds(t, s, plain(t, s, "urgent", "-p urgent -w s2", other), "COMPLETED"); e.Output != "control\n" {
				t.Errorf("the job that preempted it sees %q", e.Output)
			}
			if c.mode == "REQUEUE" {
				onHead("timeout 60 scontrol update jobid=%d starttime=now")(t, s, id)
			}
			if e := endsAs(t, s, id, c.state); !strings.Contains(e.Output, c.says) {
				t.Errorf("its output does not say %q: %s", c.says, e.Output)
			}
			clean(t, s, cluster.S2)
			for _, v := range c.volumes {
				kept(t, s, v)
			}
			serves(t, s, cluster.S2, "after-"+c.name)
		})
	}
}

// awaitNode waits until Slurm shows a node in one of some states.
func awaitNode(t *testing.T, s *deploy.Site, node string, states ...string) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		var err error
		if state, err = s.NodeState(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(states, state) {
			return
		}
	}
	t.Errorf("node %s is %s, not %s", node, state, strings.Join(states, " or "))
}

func TestANodeWhoseSecureJobIsSuspendedStaysLockedAndTakesNoOther(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	id := onNode(t, s, cluster.S2, "suspended", stubborn+"while :; do sleep 1; done\n", "suspended.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	suspend := onHead("timeout 60 scontrol suspend %d")
	suspend(t, s, id)
	awaitNode(t, s, cluster.S2, "draining", "drained")
	onHead("timeout 60 scontrol resume %d")(t, s, id)
	awaitNode(t, s, cluster.S2, "allocated")
	suspend(t, s, id)
	awaitNode(t, s, cluster.S2, "draining", "drained")
	other := plain(t, s, "other", "-p secure -w s2", "echo ran\n")
	if out, err := s.Output(ctx, cluster.S2, "sleep 10; nft list table inet cloister | grep -c 'policy drop'; systemctl is-active ssh.service; true"); err != nil || out != "3\ninactive\n" {
		t.Errorf("the node of a suspended job is not locked: %q, %v", out, err)
	}
	if e, err := s.Look(ctx, other); err != nil || e.State != "PENDING" {
		t.Errorf("another job is %s there, %v", e.State, err)
	}
	onHead("scancel %d")(t, s, id)
	endsAs(t, s, id, "CANCELLED")
	kept(t, s, "suspended.luks")
	if e := ordinaryEnds(t, s, other, "COMPLETED"); e.Output != "ran\n" {
		t.Errorf("the other job then printed %q", e.Output)
	}
	clean(t, s, cluster.S2)
	serves(t, s, cluster.S2, "after-suspended")
}

// PreemptMode=SUSPEND would leave two jobs on the node, of which one is refused.
func TestSlurmSuspendsNoSecureJobForAnotherInAPartitionOfWholeNodes(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	slurmConf(t, s, []string{cluster.Head}, urgent("SUSPEND,GANG"))
	id := onNode(t, s, cluster.S2, "ganged", "for i in $(seq 20); do sleep 1; done\necho done\n", "ganged.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	other := plain(t, s, "urgent", "-p urgent -w s2", "echo ran\n")
	endsAs(t, s, id, "COMPLETED")
	if out, err := s.Output(ctx, cluster.Head, fmt.Sprintf("timeout 30 scontrol show job %d | grep -o 'SuspendTime=[^ ]*'", id)); err != nil || out != "SuspendTime=None\n" {
		t.Errorf("the secure job was suspended: %q, %v", out, err)
	}
	if e := ordinaryEnds(t, s, other, "COMPLETED"); e.Output != "ran\n" {
		t.Errorf("the other printed %q", e.Output)
	}
	clean(t, s, cluster.S2)
	if got, err := s.Results(ctx, "alice", "ganged.luks", "ganged.txt"); err != nil || got != "done\n" {
		t.Errorf("the secure job printed %q, %v", got, err)
	}
}

func TestSlurmSaysOfASecureJobThatRanOutOfMemoryWhatItSaysOfAnOrdinaryOne(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	// cgroup.conf of the test cluster has ConstrainRAMSpace=yes, which limits
	// nothing unless memory is a resource that Slurm gives out.
	slurmConf(t, s, []string{cluster.Head, cluster.S2}, "sed -i 's/^SelectTypeParameters=.*/SelectTypeParameters=CR_Core_Memory/' /etc/slurm/slurm.conf")
	const hog = "perl -e 'push @x, \"x\" x 1_000_000 for 1 .. 300; sleep 1000'"
	for _, c := range []struct {
		name, body, state string
		bring             func(*testing.T, *deploy.Site, uint32)
	}{
		{"limit-of-the-script", "exec " + hog + "\n", "OUT_OF_MEMORY", nil},
		{"limit-of-a-child", hog + "\necho goes on\n", "OUT_OF_MEMORY", nil},
		{"node", "while :; do sleep 1000; done\n", "OUT_OF_MEMORY", outOfMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ends [2]deploy.Ended
			for i, who := range []string{"ordinary", "secure"} {
				name := c.name + "-" + who
				var id uint32
				var err error
				if who == "ordinary" {
					if err = s.Write("alice", name+".sh", "#!/bin/bash\n"+c.body); err == nil {
						err = s.Upload(ctx, "alice", name+".sh")
					}
					if err == nil {
						id, err = s.Submit(ctx, "alice", "-p secure -w s2 --mem=120 "+name+".sh")
					}
				} else {
					err = s.Seal(ctx, "alice", name, queued+"#SBATCH --mem=120\n#CLOISTER volume="+name+".luks:/results:rw,create,size=32M\n#CLOISTER output=/results/out.txt\n"+c.body)
					if err == nil {
						id, err = s.Submit(ctx, "alice", "--secure "+name+".sealed")
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				if c.bring != nil {
					if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
						t.Fatal(err)
					}
					c.bring(t, s, id)
				}
				if ends[i], err = s.Wait(ctx, "alice", id, limit); err != nil {
					t.Fatal(err)
				}
				clean(t, s, cluster.S2)
			}
			if ends[0].State != c.state || ends[1].State != c.state || ends[0].ExitCode != ends[1].ExitCode {
				t.Errorf("the ordinary job is %s (%s), the secure one %s (%s), want %s of both: %s",
					ends[0].State, ends[0].ExitCode, ends[1].State, ends[1].ExitCode, c.state, ends[1].Output)
			}
		})
	}
}
