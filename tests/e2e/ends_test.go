//go:build cluster && full

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// stubborn is the body of a job that writes a result, asks for it to be on
// disk, and leaves processes that do not want to end: one that ignores signals,
// a daemon, one forked twice, one in namespaces of its own. The first sleep is
// after the sync: who sees one knows that the result is safe.
const stubborn = `echo synced > /results/kept
sync /results/kept && sync -f /results/kept || exit 99
trap '' TERM INT HUP
` + deploy.Stubborn

// busy never rests: it makes results, syncs each and then notes it, and changes
// other files all the time without syncing them.
const busy = `(n=0; while :; do
  n=$((n+1))
  echo "result $n" > /results/result-$n; sync /results/result-$n || exit
  echo $n >> /results/noted; sync /results/noted || exit
done) &
(mkdir /results/loose; n=0; while :; do
  n=$((n+1))
  head -c $((n*977%60000)) /dev/urandom > /results/loose/$((n%30))
  mv /results/loose/$((n%30)) /results/loose/moved-$((n%7))
  rm -f /results/loose/moved-$(((n+3)%7))
done) &
`

// An end is one way a job can end.
type end struct {
	name   string
	last   string // the body's last lines
	bring  func(t *testing.T, s *deploy.Site, job uint32)
	states []string
}

func onHead(script string) func(*testing.T, *deploy.Site, uint32) {
	return func(t *testing.T, s *deploy.Site, job uint32) {
		t.Helper()
		if _, err := s.Output(t.Context(), cluster.Head, fmt.Sprintf(script, job)); err != nil {
			t.Fatal(err)
		}
	}
}

// outOfMemory has the kernel's OOM killer choose among the job's processes. It
// is the node that is out of memory, not the job's group. Slurm notices such
// kills only in jobs whose memory it limits (OUT_OF_MEMORY, see the test of
// that), which it does not here; an ordinary job then is FAILED too.
func outOfMemory(t *testing.T, s *deploy.Site, _ uint32) {
	t.Helper()
	if _, err := s.Output(t.Context(), cluster.S2, `for p in $(pgrep -u alice); do echo 1000 > /proc/$p/oom_score_adj; done
for n in 1 2 3 4 5 6 7 8; do pgrep -u alice >/dev/null || break; echo f > /proc/sysrq-trigger; sleep 1; done`); err != nil {
		t.Fatal(err)
	}
}

// powerCut pulls the node's plug while the job writes. Slurm would run the job again: whether it may
// is another test's.
func powerCut(t *testing.T, s *deploy.Site, job uint32) {
	t.Helper()
	onHead("scontrol update jobid=%d requeue=0")(t, s, job)
	time.Sleep(20 * time.Second) // some dozens of results
	if err := s.PowerCut(cluster.S2); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context(), cluster.S2); err != nil {
		t.Fatal(err)
	}
}

// serves wants the next secure job on a node to work, and nothing left of it.
func serves(t *testing.T, s *deploy.Site, node, name string) {
	t.Helper()
	endsAs(t, s, onNode(t, s, node, name, "echo next\n", name+".luks:/results:rw,create,size=32M"), "COMPLETED")
	clean(t, s, node)
}

// kept wants what a stubborn job had synced in its volume, which the node closed:
// the client opens no other without being told to.
func kept(t *testing.T, s *deploy.Site, volume string) {
	t.Helper()
	if got, err := s.Results(t.Context(), "alice", volume, "kept"); err != nil || got != "synced\n" {
		t.Errorf("what the job had synced reads %q, %v", got, err)
	}
}

func TestHoweverAJobEndsWhatItSyncedStaysAndNothingElse(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	const waits = "while :; do sleep 1000; done\n"
	for _, e := range []end{
		{"failure", "sleep 5\nexit 7\n", nil, []string{"FAILED"}},
		{"scancel", waits, onHead("scancel %d"), []string{"CANCELLED"}},
		{"oom", waits, outOfMemory, []string{"FAILED"}},
		{"limit", waits, onHead("scontrol update jobid=%d timelimit=1"), []string{"TIMEOUT"}},
		{"power", busy + waits, powerCut, []string{"NODE_FAIL"}},
	} {
		t.Run(e.name, func(t *testing.T) {
			id := onNode(t, s, cluster.S2, e.name, stubborn+e.last, e.name+".luks:/results:rw,create,size=32M")
			if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
				t.Fatal(err)
			}
			if e.bring != nil {
				e.bring(t, s, id)
			}
			if got, err := s.Wait(ctx, "alice", id, limit); err != nil || !slices.Contains(e.states, got.State) {
				t.Errorf("the job is %s, not %s: %v", got.State, strings.Join(e.states, " or "), err)
			}
			clean(t, s, cluster.S2)
			volume := e.name + ".luks"
			if err := s.Download(ctx, "alice", volume); err != nil {
				t.Fatal(err)
			}
			extract := []string{"volume", "extract", volume, "--to", e.name + ".out"}
			if e.name == "power" {
				// Nobody closed it, which the client says.
				if _, err := s.Laptop(ctx, "alice", extract...); err == nil || !strings.Contains(err.Error(), "--any-state") {
					t.Errorf("a volume that nobody closed is read like any other: %v", err)
				}
				extract = append(extract, "--any-state")
			}
			if _, err := s.Laptop(ctx, "alice", extract...); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), e.name+".out", "kept"))
			if err != nil || string(got) != "synced\n" {
				t.Errorf("what the job had synced reads %q, %v", got, err)
			}
			if e.name == "power" {
				resultsAreThere(t, filepath.Join(s.LaptopDir("alice"), "power.out"))
				nextJobFinds(t, s, volume)
			}
			serves(t, s, cluster.S2, "after-"+e.name)
		})
	}
}

// resultsAreThere checks the results that busy had noted.
func resultsAreThere(t *testing.T, dir string) {
	t.Helper()
	noted, err := os.ReadFile(filepath.Join(dir, "noted"))
	if err != nil || len(noted) == 0 {
		t.Fatalf("the job noted %q, %v: the plug was pulled too early", noted, err)
	}
	all := strings.Fields(string(noted))
	for _, n := range all {
		if got, err := os.ReadFile(filepath.Join(dir, "result-"+n)); err != nil || string(got) != "result "+n+"\n" {
			t.Errorf("result %s of %d that the job had synced reads %q, %v", n, len(all), got, err)
		}
	}
	t.Logf("%d results had been synced", len(all))
}

// nextJobFinds gives the volume that nobody closed to another job, which reads
// all results on the node and leaves its own.
func nextJobFinds(t *testing.T, s *deploy.Site, volume string) {
	t.Helper()
	id := onNode(t, s, cluster.S2, "next", `set -e
while read n; do [ "$(cat /results/result-$n)" = "result $n" ]; done < /results/noted
cat /results/loose/* > /dev/null
rm -r /results/loose
cat /results/kept > /results/again
`, volume+":/results:rw")
	endsAs(t, s, id, "COMPLETED")
	clean(t, s, cluster.S2)
	if got, err := s.Results(t.Context(), "alice", volume, "again"); err != nil || got != "synced\n" {
		t.Errorf("the next job left %q, %v", got, err)
	}
}

func TestAJobStruckWhileItIsAdmittedRunsNotOneLine(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	writable(t, s, "early.luks")
	for name, c := range map[string]struct {
		node, strike string
		ends         []string
	}{
		"cancelled": {cluster.Head, "scancel %d; sleep 2", []string{"CANCELLED"}},
		"killed":    {cluster.S2, "systemctl kill -s KILL cloister-noded # under %d", []string{"CANCELLED", "FAILED"}},
	} {
		script := "#!/bin/bash\n#SBATCH --partition=secure\n#SBATCH --nodelist=s2\n#CLOISTER class=on-demand\n#CLOISTER volume=early.luks:/results:rw\n#CLOISTER volume=" + name + ".luks:/made:rw,create,size=32M\n#CLOISTER output=/results/out\necho ran > /results/ran\n"
		if err := s.Seal(ctx, "alice", name, script); err != nil {
			t.Fatal(err)
		}
		// A key server that does not answer holds the admission where it is.
		if _, err := s.Output(ctx, cluster.Head, "systemctl kill -s STOP cloister-kms"); err != nil {
			t.Fatal(err)
		}
		id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
		if err != nil {
			t.Fatal(err)
		}
		for _, on := range []struct{ node, script string }{
			{cluster.S2, `timeout 60 sh -c 'until grep -qs "\"ino\":[1-9]" /run/cloister/sessions/*; do sleep 0.2; done'`},
			{c.node, fmt.Sprintf(c.strike, id)},
			{cluster.Head, "systemctl kill -s CONT cloister-kms"},
		} {
			if _, err := s.Output(ctx, on.node, on.script); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if e, err := s.Wait(ctx, "alice", id, limit); err != nil || !slices.Contains(c.ends, e.State) {
			t.Errorf("%s: the job is %s, not %v: %s, %v", name, e.State, c.ends, e.Output, err)
		}
		clean(t, s, cluster.S2)
		if _, err := s.Output(ctx, cluster.Head, "test ! -e "+deploy.Home("alice")+"/"+name+".luks"); err != nil {
			t.Errorf("%s: the results volume that was made without a header is still there: %v", name, err)
		}
	}
	if got, err := s.Results(ctx, "alice", "early.luks", "ran"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a job's script ran: %q, %v", got, err)
	}
}

func TestAJobOutlivesSlurmsDaemonsAndTheKeyServer(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	id := onNode(t, s, cluster.S2, "outlives", "echo synced > /results/kept\nsleep 90\necho survived\n", "outlives.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	for _, blow := range []struct{ node, script string }{
		{cluster.Head, "systemctl kill -s KILL cloister-kms; systemctl stop cloister-kms"},
		{cluster.S2, "systemctl kill -s KILL --kill-whom=main slurmd; sleep 1; systemctl start slurmd"},
		{cluster.Head, "systemctl kill -s KILL --kill-whom=main slurmctld; sleep 1; systemctl start slurmctld; timeout 90 sh -c 'until timeout 5 scontrol ping | grep -q UP; do sleep 1; done'"},
	} {
		if _, err := s.Output(ctx, blow.node, blow.script); err != nil {
			t.Fatal(err)
		}
	}
	endsAs(t, s, id, "COMPLETED")
	if _, err := s.Output(ctx, cluster.Head, "systemctl start cloister-kms"); err != nil {
		t.Fatal(err)
	}
	clean(t, s, cluster.S2)
	if got, err := s.Results(ctx, "alice", "outlives.luks", "outlives.txt"); err != nil || got != "survived\n" {
		t.Errorf("the output is %q, %v", got, err)
	}
	serves(t, s, cluster.S2, "next")
}
