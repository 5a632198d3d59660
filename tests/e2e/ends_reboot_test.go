//go:build cluster && full

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// reboots waits until a node that reboots is back in Slurm.
func reboots(t *testing.T, s *deploy.Site, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	if err := s.AwaitOff(ctx, node); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s was off after %.0f s", node, time.Since(began).Seconds())
	if err := s.Restart(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}

// systemd ends the job's processes itself when the machine shuts down, but not
// those that ignore SIGTERM, which have a stop's time-out to live.
func TestAnOrderlyRebootUnderASecureJobClosesItsVolumesAndCostsNothingElse(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	jobs := make(map[string]uint32)
	for _, node := range []string{cluster.S1, cluster.S2} {
		jobs[node] = onNode(t, s, node, "reboot-"+node, stubborn+"while :; do sleep 1000; done\n", "reboot-"+node+".luks:/results:rw,create,size=32M")
		if err := s.Started(ctx, "alice", jobs[node], node); err != nil {
			t.Fatal(err)
		}
		onHead("scontrol update jobid=%d requeue=0")(t, s, jobs[node]) // whether it may run again is another test's
	}
	// slurmstepd's scope may take longer to stop than the test could wait: it is
	// Cloister that ends the job. The cluster's own shell must not be waited for.
	const patient = `mkdir -p /etc/systemd/system/slurmstepd.scope.d
printf '[Scope]\nTimeoutStopSec=10min\n' >/etc/systemd/system/slurmstepd.scope.d/zz.conf
systemctl daemon-reload
systemctl kill -s KILL cluster-shell; systemctl stop cluster-shell
mkdir -p /var/log/journal; journalctl --flush
nohup systemctl reboot >/dev/null 2>&1 &`
	for node := range jobs {
		if _, err := s.Output(ctx, node, patient); err != nil {
			t.Fatal(err)
		}
	}
	for node, id := range jobs {
		reboots(t, s, node)
		e := endsAs(t, s, id, "FAILED")
		if want := "the node ended the job: the node is being shut down"; !strings.Contains(e.Output, want) {
			t.Errorf("the output of the job on %s does not say %q: %s", node, want, e.Output)
		}
		if st, _, err := s.Status(ctx, node); err != nil || st.State != status.InService {
			t.Errorf("%s after the reboot: %+v, %v", node, st, err)
		}
		clean(t, s, node)
		kept(t, s, "reboot-"+node+".luks")
		serves(t, s, node, "after-"+node)
		if t.Failed() {
			out, _ := s.Output(ctx, node, "journalctl -q --no-pager -b -1 | grep -v qemu-ga | tail -n 80")
			t.Logf("%s: %s", node, out)
		}
	}
}

func TestARebootThatSlurmIsAskedForWaitsForTheSecureJob(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	slurmConf(t, s, []string{cluster.Head, cluster.S2}, `echo 'RebootProgram="/usr/bin/systemctl reboot"' >> /etc/slurm/slurm.conf`)
	id := onNode(t, s, cluster.S2, "asap", "sleep 20\necho done\n", "asap.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.Head, "timeout 60 scontrol reboot ASAP nextstate=RESUME "+cluster.S2); err != nil {
		t.Fatal(err)
	}
	reboots(t, s, cluster.S2)
	endsAs(t, s, id, "COMPLETED")
	if got, err := s.Results(ctx, "alice", "asap.luks", "asap.txt"); err != nil || got != "done\n" {
		t.Errorf("the job printed %q, %v", got, err)
	}
	serves(t, s, cluster.S2, "after-asap")
}

// slurmConf changes slurm.conf on some nodes and has Slurm's daemons read it.
func slurmConf(t *testing.T, s *deploy.Site, nodes []string, change string) {
	t.Helper()
	for _, node := range nodes {
		unit := "slurmd"
		if node == cluster.Head {
			unit = "slurmctld"
		}
		if _, err := s.Output(t.Context(), node, fmt.Sprintf("set -e\n%s\nsystemctl restart %s", change, unit)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
}
