//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/noded/audit"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// queued is the head of a job for the on-demand node that runs several times.
const queued = `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
`

// gone waits until Slurm has no task of a job in its queue.
func gone(t *testing.T, s *deploy.Site, job uint32) {
	t.Helper()
	var left string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		var err error
		if left, err = s.Output(t.Context(), cluster.Head, fmt.Sprintf("timeout 30 squeue -h -j %d -o '%%i %%T' 2>/dev/null; true", job)); err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(left) == "" {
			return
		}
	}
	t.Fatalf("of job %d there is left: %s", job, left)
}

// tasks submits tasks of a sealed array, waits for their end and returns what
// Slurm's own output file of each says.
func tasks(t *testing.T, s *deploy.Site, file, array string, each ...int) map[int]string {
	t.Helper()
	job, err := s.Submit(t.Context(), "alice", "--secure --array="+array+" "+file)
	if err != nil {
		t.Fatal(err)
	}
	gone(t, s, job)
	said := make(map[int]string)
	for _, task := range each {
		if said[task], err = s.Output(t.Context(), cluster.Head, fmt.Sprintf("cat %s/slurm-%d_%d.out", deploy.Home("alice"), job, task)); err != nil {
			t.Fatal(err)
		}
	}
	return said
}

func TestEachTaskOfAnArrayInTheQueueRunsOnceAndWritesItsOwnVolume(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary-of-a-patient\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "array", queued+`#SBATCH --array=1-3%2
#CLOISTER volume=in.luks:/data:ro
#CLOISTER volume=part-%a.luks:/results:rw,create,size=32M
echo "task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT in $SLURM_ARRAY_JOB_ID: $(cat /data/secret.txt)"
`); err != nil {
		t.Fatal(err)
	}
	job, err := s.Submit(ctx, "alice", "--secure array.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OutputAs(ctx, "alice", cluster.Login, fmt.Sprintf("timeout 60 scancel %d_3", job)); err != nil {
		t.Fatal(err)
	}
	gone(t, s, job)
	for task := 1; task <= 2; task++ {
		got, err := s.Results(ctx, "alice", fmt.Sprintf("part-%d.luks", task), fmt.Sprintf("slurm-%d_%d.out", job, task))
		want := fmt.Sprintf("task %d of 3 in %d: canary-of-a-patient\n", task, job)
		if err != nil || got != want {
			said, _ := s.Output(ctx, cluster.Head, fmt.Sprintf("cat %s/slurm-%d_%d.out", deploy.Home("alice"), job, task))
			t.Fatalf("task %d printed %q, %v, and in slurm-%d_%d.out is %s", task, got, err, job, task, said)
		}
	}
	// The one that was cancelled in the queue still has its token. Tasks that
	// ran, and one that was never sealed, are nothing that Slurm can ask for.
	said := tasks(t, s, "array.sealed", "2-4", 2, 3, 4)
	for task, want := range map[int]string{
		2: "task 2 of this sealed job has already run here", 3: "exit status 0", 4: "task 4 is none of those that this job was sealed for (1-3)",
	} {
		if !strings.Contains(said[task], want) {
			t.Errorf("task %d: %s", task, said[task])
		}
	}
	if n, err := s.Incidents(ctx, cluster.S2, audit.Replayed); err != nil || n != 1 {
		t.Errorf("a task that came again is %d incidents, %v", n, err)
	}
	for task := 1; task <= 3; task++ {
		wantRecord(t, s, fmt.Sprintf("CLOISTER_EVENT=ended CLOISTER_TASK=%d", task))
	}
	wantRecord(t, s, "CLOISTER_INCIDENT=replayed CLOISTER_TASK=2")
	// What the node remembers of runs is what another node lacks. There its results
	// are in the way first.
	if _, err := s.Output(ctx, cluster.S2, "rm -f /var/lib/cloister/jobs/*"); err != nil {
		t.Fatal(err)
	}
	if said := tasks(t, s, "array.sealed", "1", 1)[1]; !strings.Contains(said, "or seal the script again if it ran before") {
		t.Errorf("a task whose results are there: %s", said)
	}
	if _, err := s.Output(ctx, cluster.Head, "rm "+deploy.Home("alice")+"/part-1.luks"); err != nil {
		t.Fatal(err)
	}
	if said := tasks(t, s, "array.sealed", "1", 1)[1]; !strings.Contains(said, "single-use token is gone") {
		t.Errorf("a task on a node that does not remember it: %s", said)
	}
	clean(t, s, cluster.S2)
}

// wantRecord wants one record on s2 that has all the fields, in the journal and,
// with the journal's number and hash of it, in the file.
func wantRecord(t *testing.T, s *deploy.Site, fields string) {
	t.Helper()
	out, err := s.Output(t.Context(), cluster.S2, `heads=$(journalctl -q -b -o cat --output-fields=CLOISTER_HEAD `+fields+`)
for h in $heads; do grep -h "\"hash\":\"${h#*:}\"" /var/lib/cloister/audit/*; done`)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(out, "\n") != 1 {
		t.Errorf("of %s there are these records: %q", fields, out)
	}
	for _, f := range strings.Fields(fields) {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(f, "CLOISTER_")), "=")
		if !strings.Contains(out, `"`+name+`":`+value) && !strings.Contains(out, `"`+name+`":"`+value+`"`) {
			t.Errorf("the record has no %s: %s", f, out)
		}
	}
}

// requeue has Slurm start a running job anew and returns when it waits for that.
func requeue(t *testing.T, s *deploy.Site, job uint32) {
	t.Helper()
	ctx := t.Context()
	if _, err := s.OutputAs(ctx, "alice", cluster.Login, fmt.Sprintf("timeout 60 scontrol requeue %d", job)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(300 * time.Millisecond) {
		e, err := s.Look(ctx, job)
		if err != nil {
			t.Fatal(err)
		}
		if e.State == "PENDING" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the requeued job is %s", e.State)
		}
	}
	// Slurm holds a requeued job back for a while.
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("timeout 60 scontrol update jobid=%d starttime=now", job)); err != nil {
		t.Fatal(err)
	}
}

func TestAJobInTheQueueRunsAgainAsOftenAsItWasSealedForWhateverSlurmSays(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.Seal(ctx, "alice", "again", queued+`#SBATCH --requeue
#CLOISTER requeue=1
#CLOISTER volume=again-%r.luks:/results:rw,create,size=32M
#CLOISTER output=/results/out.txt
echo "attempt ${SLURM_RESTART_COUNT:-0}"
sleep 1000
`); err != nil {
		t.Fatal(err)
	}
	job, err := s.Submit(ctx, "alice", "--secure again.sealed")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Started(ctx, "alice", job, cluster.S2); err != nil {
			t.Fatal(err)
		}
		requeue(t, s, job)
	}
	end, err := s.Wait(ctx, "alice", job, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "FAILED" || !strings.Contains(end.Output, "Slurm has requeued this job 2 times, it was sealed for 1") {
		t.Errorf("a third attempt is %s: %s", end.State, end.Output)
	}
	for attempt := range 2 {
		got, err := s.Results(ctx, "alice", fmt.Sprintf("again-%d.luks", attempt), "out.txt")
		if err != nil || got != fmt.Sprintf("attempt %d\n", attempt) {
			t.Errorf("attempt %d printed %q, %v", attempt, got, err)
		}
	}
	wantRecord(t, s, fmt.Sprintf("CLOISTER_EVENT=ended CLOISTER_JOB=%d CLOISTER_ATTEMPT=1", job))
	clean(t, s, cluster.S2)
	// Who controls slurmctld can say anything of how often it requeued the job.
	if _, err := s.Output(ctx, cluster.S2, "rm /usr/bin/squeue"); err != nil {
		t.Fatal(err)
	}
	for lie, want := range map[string]string{
		"echo ${4#--jobs=} 1 RUNNING":           "attempt 1 of this sealed job has already run here",
		"echo ${4#--jobs=} 7 RUNNING":           "requeued this job 7 times, it was sealed for 1",
		"echo ${4#--jobs=} 1 RUNNING; echo 0 0": "does not say how often",
		"exit 1":                                "does not say how often",
	} {
		if _, err := s.Output(ctx, cluster.S2, "printf '#!/bin/sh\\n%s\\n' '"+lie+"' >/usr/bin/squeue && chmod 755 /usr/bin/squeue"); err != nil {
			t.Fatal(err)
		}
		if end := run(t, s, "alice", "again.sealed"); end.State != "FAILED" || !strings.Contains(end.Output, want) {
			t.Errorf("with %q from Slurm the job is %s: %s", lie, end.State, end.Output)
		}
	}
	clean(t, s, cluster.S2)
}
