//go:build cluster && full

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// A fault is one way in which a node stops being fit, and the way back.
type fault struct{ name, brk, says, mend string }

const restarted = "systemctl daemon-reload && systemctl restart slurmd"

var faults = []fault{
	{"swap", "dd if=/dev/zero of=/var/swapfile bs=1M count=8 status=none && chmod 600 /var/swapfile && mkswap -q /var/swapfile && swapon /var/swapfile",
		"swap is on (/var/swapfile)", "swapoff /var/swapfile; rm -f /var/swapfile"},
	{"core dumps", "sysctl -q -w kernel.core_pattern='|/bin/false'", "kernel.core_pattern", "sysctl -q -w kernel.core_pattern=core"},
	{"no GetEnvTimeout", "cp -p /etc/slurm/slurm.conf /root/slurm.conf && sed -i /^GetEnvTimeout/d /etc/slurm/slurm.conf",
		"does not say GetEnvTimeout=0", "mv /root/slurm.conf /etc/slurm/slurm.conf"},
	{"UsePAM", "cp -p /etc/slurm/slurm.conf /root/slurm.conf && echo UsePAM=1 >> /etc/slurm/slurm.conf",
		"has UsePAM=1", "mv /root/slurm.conf /etc/slurm/slurm.conf"},
	{"optional plugin", "sed -i s/^required/optional/ /etc/slurm/plugstack.conf", "not required", "sed -i s/^optional/required/ /etc/slurm/plugstack.conf"},
	{"slurmd free to write", "mv /etc/systemd/system/slurmd.service.d/cloister.conf /root/ && " + restarted,
		"may write /", "mv /root/cloister.conf /etc/systemd/system/slurmd.service.d/ && " + restarted},
	{"slurmd that keeps what it frees", "printf '[Service]\\nEnvironment=GLIBC_TUNABLES=\\n' > /etc/systemd/system/slurmd.service.d/keeps.conf && " + restarted,
		"does not overwrite the memory", "rm /etc/systemd/system/slurmd.service.d/keeps.conf && " + restarted},
	{"configless slurmd", "printf '[Service]\\nEnvironment=SLURM_CONF_SERVER=head\\n' > /etc/systemd/system/slurmd.service.d/server.conf && " + restarted,
		"configless", "rm /etc/systemd/system/slurmd.service.d/server.conf && " + restarted},
}

func TestANodeThatIsNotFitSaysWhyAndRunsOrdinaryJobsOnly(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "fit", readsVolume("fit.luks")); err != nil {
		t.Fatal(err)
	}
	if err := s.Write("bob", "plain.sh", "#!/bin/sh\necho ran\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "bob", "plain.sh"); err != nil {
		t.Fatal(err)
	}
	check := func() string {
		t.Helper()
		r, err := s.Run(ctx, cluster.S2, "cloister-noded --check 2>&1")
		if err != nil {
			t.Fatal(err)
		}
		return r.Stdout
	}
	if out := check(); out != "nothing is wrong with this node\n" {
		t.Fatalf("the node is not fit to begin with: %s", out)
	}
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			if _, err := s.Output(ctx, cluster.S2, f.brk); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := s.Output(ctx, cluster.S2, f.mend); err != nil {
					t.Error(err)
				}
				if err := s.WaitIdle(ctx); err != nil {
					t.Error(err)
				}
				if out := check(); out != "nothing is wrong with this node\n" {
					t.Errorf("after mending it: %s", out)
				}
			}()
			if err := s.WaitIdle(ctx); err != nil {
				t.Fatal(err)
			}
			if out := check(); !strings.Contains(out, f.says) {
				t.Errorf("--check says %q, nothing of %q", out, f.says)
			}
			if end := run(t, s, "alice", "fit.sealed"); end.State != "FAILED" || !strings.Contains(end.Output, f.says) {
				t.Errorf("the sealed job is %s, its output %q; want it refused with %q", end.State, end.Output, f.says)
			}
			if i > 0 {
				return
			}
			id, err := s.Submit(ctx, "bob", "-p secure -w s2 plain.sh")
			if err != nil {
				t.Fatal(err)
			}
			if end, err := s.Wait(ctx, "bob", id, limit); err != nil || end.State != "COMPLETED" || end.Output != "ran\n" {
				t.Errorf("an ordinary job is %s: %q, %v", end.State, end.Output, err)
			}
		})
	}
	t.Run("half a plugin", func(t *testing.T) { halfAPlugin(t, s) })
	if end := run(t, s, "alice", "fit.sealed"); end.State != "COMPLETED" {
		t.Errorf("once the node is fit again the job is %s: %s", end.State, end.Output)
	}
	clean(t, s, cluster.S2)
}

// halfAPlugin takes away what the plugin loads on a secure node. Nothing of any
// user's runs there then, a task's epilog included. For a batch job Slurm drains
// the node: only the administrator can bring this about.
func halfAPlugin(t *testing.T, s *deploy.Site) {
	ctx := t.Context()
	const work, away = "/usr/lib/cloister/cloister-secure.so", "/root/cloister-secure.so"
	if err := s.Write("bob", "epilog", "#!/bin/sh\ntouch "+deploy.Home("bob")+"/ran\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "bob", "epilog"); err != nil {
		t.Fatal(err)
	}
	const step = "cd && chmod +x epilog && rm -f ran && timeout 60 srun -p secure -w s2 --task-epilog=$PWD/epilog echo TASK; ls"
	try := func() string {
		t.Helper()
		r, err := s.RunAs(ctx, "bob", cluster.Login, step)
		if err != nil {
			t.Fatal(err)
		}
		return r.Stdout + r.Stderr
	}
	if out := try(); !has(out, "TASK") || !has(out, "ran") {
		t.Fatalf("with the whole plugin the step or its epilog does not run, so this test shows nothing: %s", out)
	}
	if _, err := s.Output(ctx, cluster.S2, "mv "+work+" "+away); err != nil {
		t.Fatal(err)
	}
	out := try()
	t.Logf("srun said: %s", out)
	if has(out, "TASK") || has(out, "ran") {
		t.Errorf("without half of the plugin something ran: %s", out)
	}
	checked, err := s.Run(ctx, cluster.S2, "cloister-noded --check 2>&1")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(checked.Stdout, "install cloister-secure.so beside cloister.so") {
		t.Errorf("--check says %q", checked.Stdout)
	}
	id, err := s.Submit(ctx, "alice", "--secure fit.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf(`for n in $(seq 300); do
  sinfo -h -n s2 -o %%T | grep -q drained && { scancel %d; exit; }
  sleep 0.2
done
sinfo -h -n s2 -o %%T >&2; exit 1`, id)); err != nil {
		t.Errorf("the node took a batch job and is not drained: %v", err)
	}
	if _, err := s.Output(ctx, cluster.S2, "mv "+away+" "+work); err != nil {
		t.Fatal(err)
	}
	s.Run(ctx, cluster.Head, "scontrol update nodename=s2 state=resume")
	if err := s.WaitIdle(ctx); err != nil {
		t.Error(err)
	}
}

func TestAnOrdinaryJobSpoilsANodeThatWantsAFreshBoot(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	limits := "for l in c d f i l m n q s t u v x; do ulimit -S$l; done > "
	if err := s.Seal(ctx, "alice", "fresh", readsVolume("fresh.luks")+limits+"/results/limits\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "late", readsVolume("late.luks")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Output(ctx, cluster.S2, `sed -i 's/^class/require_fresh_boot = true\nclass/' /etc/cloister/policy.toml && systemctl restart cloister-noded`); err != nil {
		t.Fatal(err)
	}
	// The submitting shell's limits are strange, and the job must not get them.
	submit := func(script string) uint32 {
		t.Helper()
		out, err := s.OutputAs(ctx, "alice", cluster.Login, "cd "+deploy.Home("alice")+" && bash -c 'ulimit -Sn 77; ulimit -Sf 123456; ulimit -Ss 1234; ulimit -Sc 99; ulimit -St 7777; timeout 60 sbatch "+script+"'")
		if err != nil {
			t.Fatal(err)
		}
		id, err := deploy.JobNumber(out)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := submit("--secure fresh.sealed")
	if end, err := s.Wait(ctx, "alice", id, limit); err != nil || end.State != "COMPLETED" {
		t.Fatalf("on a fresh node the job is %s: %s, %v", end.State, end.Output, err)
	}
	sealedLimits, err := s.Results(ctx, "alice", "fresh.luks", "limits")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write("alice", "plain.sh", "#!/bin/bash\n"+limits+"plain.limits\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "alice", "plain.sh"); err != nil {
		t.Fatal(err)
	}
	id = submit("-p secure -w s2 plain.sh")
	if end, err := s.Wait(ctx, "alice", id, limit); err != nil || end.State != "COMPLETED" {
		t.Fatalf("an ordinary job is %s: %s, %v", end.State, end.Output, err)
	}
	plain, err := s.Output(ctx, cluster.Head, "cat "+deploy.Home("alice")+"/plain.limits")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{"77", "123456", "1234", "7777"} {
		if !has(plain, l) {
			t.Errorf("an ordinary job does not get the submitting shell's limit %s, so this test shows nothing: %q", l, plain)
		}
		if has(sealedLimits, l) {
			t.Errorf("the sealed job has the submitting shell's limit %s: %q", l, sealedLimits)
		}
	}
	if !strings.HasPrefix(sealedLimits, "0\n") {
		t.Errorf("the sealed job may dump core: %q", sealedLimits)
	}
	end := run(t, s, "alice", "late.sealed")
	if end.State != "FAILED" || !strings.Contains(end.Output, "wants a fresh boot") {
		t.Errorf("after an ordinary job the sealed one is %s: %q", end.State, end.Output)
	}
	clean(t, s, cluster.S2)
}

func has(lines, line string) bool { return strings.Contains("\n"+lines, "\n"+line+"\n") }
