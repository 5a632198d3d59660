package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSlurmd are attacks that have slurmd or slurmstepd write files, as root for
// jobs of root's, whether or not anything of the job runs, and one that passes
// for slurmd.
var onSlurmd = []Attack{
	{Number: 33, Who: "A1", Name: "root on the login node has slurmd write system files", Long: true, Control: writtenBySlurmd(cluster.N1, "batch"), Try: writtenBySlurmd(cluster.S1, "secure")},
	{Number: 33, Who: "A1", Name: "who is root on the login node has slurmd write over a running job's script and into its private directories", Control: intoOpenJob, During: intoJob},
	{Number: 45, Who: "A4", Name: "a user's program called slurmd runs on the node, to be run by noded as root or to make the node unfit", Defences: defences(mutant.RootsSlurmd), Try: passesForSlurmd},
}

// A writing is a way to have slurmd write a file. $1 is the file, $evil one on
// the login node; $where are options that say node and partition.
type writing struct{ way, command string }

var writings = []writing{
	{"sbcast", "sbcast -f $evil $1"}, // in an allocation, see below
	{"srun --bcast", "srun $where -n1 --bcast=$1 $evil"},
	{"sbatch --output", "sbatch $where -o $1 --wrap true"},
	{"sbatch --error", "sbatch $where -o /dev/null -e $1 --open-mode=truncate --wrap true"},
	// srun writes a file of a plain name itself, on the login node.
	{"srun --output", "srun $where -n1 --output=$1.%N true"},
	{"a step's --output inside an allocation", "srun --overlap -n1 --output=$1.%N true"},
}

// systemFiles are places where a file of root's, or its absence after it was
// truncated, would change what the node does. In /run/cloister-there and
// /etc/cloister-there something is already.
var systemFiles = []string{
	"/run/systemd/system/evil.service", "/etc/ld.so.preload", "/usr/bin/evil", "/etc/cloister/allowed_signers.new",
	"/run/cloister/evil", "/run/evil", "/run/munge/evil", "/run/udev/rules.d/evil.rules", "/var/lib/cloister/jobs/evil", "/var/lib/evil",
	"/root/evil", "/usr/lib/systemd/system/evil.service", "/etc/slurm/evil.conf", "/dev/evil", "/proc/sys/kernel/core_pattern",
}

const there = "/etc/cloister-there"

// writtenBySlurmd tries each file with sbcast, and each other way with two.
func writtenBySlurmd(node, partition string) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		before, err := s.Output(ctx, node, "echo kept > "+there+"; mkdir -p /run/udev/rules.d; truncate -s 1M /root/disk; losetup -f --show /root/disk; cat /proc/sys/kernel/core_pattern")
		if err != nil {
			return err
		}
		disk, pattern, _ := strings.Cut(strings.TrimSpace(before), "\n")
		script := "cp /bin/true /tmp/evil; evil=/tmp/evil; where='-w " + node + " -p " + partition + " -N1'; export SLURM_JOB_ID\n" +
			"SLURM_JOB_ID=$(timeout 60 salloc $where -n1 --no-shell 2>&1 | sed -n 's/.*allocation \\([0-9]*\\)$/\\1/p')\n"
		for _, file := range append(systemFiles, there, disk) {
			script += "set -- " + file + "; timeout 20 " + writings[0].command + "\n"
		}
		script += "set -- " + systemFiles[0] + "; timeout 20 " + writings[5].command + "\nscancel $SLURM_JOB_ID; unset SLURM_JOB_ID\n"
		for _, w := range writings[1:5] {
			for _, file := range []string{systemFiles[0], there, disk} {
				script += "set -- " + file + "; timeout 30 " + w.command + "\n"
			}
		}
		if _, err := s.Run(ctx, cluster.Login, script); err != nil {
			return err
		}
		if _, err := s.Output(ctx, cluster.Head, "for i in $(seq 60); do [ -n \"$(squeue -h -u root)\" ] || exit 0; sleep 1; done; exit 1"); err != nil {
			return fmt.Errorf("the jobs do not end: %w", err)
		}
		r, err := s.Run(ctx, node, `for f in `+strings.Join(systemFiles[:len(systemFiles)-1], " ")+` `+systemFiles[0]+`.*; do
	[ ! -e $f ] || { echo made $f; rm -f $f; }
done
[ "$(cat `+there+`)" = kept ] || echo changed `+there+`
[ -z "$(head -c 64 `+disk+` | tr -d '\0')" ] || echo wrote to the disk `+disk+`
losetup -d `+disk+`
rm -f `+there+` /root/disk
[ "$(cat /proc/sys/kernel/core_pattern)" = '`+pattern+`' ] || { echo changed core_pattern; echo '`+pattern+`' > /proc/sys/kernel/core_pattern; }`)
		if err != nil {
			return err
		}
		if r.Stdout != "" {
			return got("slurmd %s", strings.ReplaceAll(strings.TrimSpace(r.Stdout), "\n", ", "))
		}
		return idle(ctx, s, node)
	}
}

// intoJob: sbcast may write where ordinary jobs may, and into slurmd's own
// directory. None of that may be what the job sees.
func intoJob(ctx context.Context, s *deploy.Site, v Victim) error {
	script := fmt.Sprintf("/var/spool/slurmd/job%05d/slurm_script", v.Job)
	before, err := inView(ctx, s, "cat "+script)
	if err != nil {
		return err
	}
	if !strings.Contains(before, "cat /data/secret.txt") {
		return fmt.Errorf("the job's script is not at %s but %q", script, before)
	}
	if err := sbcast(ctx, s, v.Job, script, "/tmp/evil", "/dev/shm/evil", "/var/tmp/evil"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "rm -f /tmp/evil /dev/shm/evil /var/tmp/evil")
	after, err := inView(ctx, s, "cat "+script+"; cat /tmp/evil /dev/shm/evil /var/tmp/evil 2>/dev/null; true")
	if err != nil {
		return err
	}
	if after != before {
		return got("the job sees what sbcast wrote: %q", strings.TrimPrefix(after, before))
	}
	return nil
}

// inView runs a command in the mount namespace of alice's job.
func inView(ctx context.Context, s *deploy.Site, command string) (string, error) {
	return s.Output(ctx, cluster.S2, "nsenter -m -t $(pgrep -o -x sleep -u alice) sh -c '"+command+"'")
}

// sbcast writes files into a running job's node, as root and as its owner.
func sbcast(ctx context.Context, s *deploy.Site, job uint32, files ...string) error {
	script := fmt.Sprintf("echo evil > /tmp/evil; chmod 644 /tmp/evil; export SLURM_JOB_ID=%d SLURM_JOB_NUM_NODES=1\n", job)
	for _, f := range files {
		script += "timeout 20 sbcast -f /tmp/evil " + f + "; timeout 20 setpriv --reuid=alice --regid=alice --clear-groups sbcast -f /tmp/evil " + f + "\n"
	}
	_, err := s.Run(ctx, cluster.Login, script)
	return err
}

// intoOpenJob is the same where there is no Cloister.
func intoOpenJob(ctx context.Context, s *deploy.Site) error {
	id, err := s.Submit(ctx, "alice", "-p batch -o /dev/null --wrap 'sleep 60'")
	if err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, fmt.Sprintf("scancel %d", id))
	if err := s.Started(ctx, "alice", id, cluster.N1); err != nil {
		return err
	}
	script := fmt.Sprintf("/var/spool/slurmd/job%05d/slurm_script", id)
	if err := sbcast(ctx, s, id, script); err != nil {
		return err
	}
	now, err := s.Output(ctx, cluster.N1, "cat "+script)
	if err != nil {
		return err
	}
	if strings.Contains(now, "evil") {
		return got("sbcast wrote over the running job's script")
	}
	return fmt.Errorf("sbcast does not write over an open job's script: %q", now)
}

// passesForSlurmd: noded asks each slurmd of the node for its release.
func passesForSlurmd(ctx context.Context, s *deploy.Site) error {
	const dir = "/var/tmp/of-bob" // where also nobody may write
	if _, err := s.Output(ctx, cluster.S2, "install -d -o bob -m 777 "+dir+" && install -o bob -m 755 "+probe+" "+dir+"/slurmd"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "rm -r "+dir)
	stop, err := background(ctx, s, cluster.S2, "of-bob", "-p Type=exec --uid=bob "+dir+"/slurmd cling")
	if err != nil {
		return err
	}
	defer stop()
	if _, err := s.Output(ctx, cluster.S2, "pgrep -u bob -x slurmd"); err != nil {
		return fmt.Errorf("bob's slurmd does not run: %w", err)
	}
	st, _, err := s.Status(ctx, cluster.S2)
	if err != nil {
		return err
	}
	name, err := sealed(ctx, s, "slurmd", "")
	if err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	ran, err := s.Run(ctx, cluster.S2, "stat -c %U "+dir+"/slurmd.ran")
	if err != nil {
		return err
	}
	switch {
	case ran.Exit == 0:
		return got("noded ran bob's program as %s", strings.TrimSpace(ran.Stdout))
	case st.State == status.Unfit:
		return got("bob's program made the node unfit: %s", strings.Join(st.Faults, "; "))
	case end.State != "COMPLETED":
		return fmt.Errorf("the job is %s: %s", end.State, end.Output)
	}
	return idle(ctx, s, cluster.S2)
}
