package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// noAllocation asks slurmd directly, as only SlurmUser and root may.
func noAllocation(ctx context.Context, s *deploy.Site) error {
	const launch = "timeout 60 srun --no-allocate -n1 -w %s id 2>&1"
	if r, err := s.Run(ctx, cluster.Head, fmt.Sprintf(launch, cluster.N1)); err != nil || !strings.Contains(r.Stdout, "uid=0") {
		return fmt.Errorf("srun --no-allocate does not work even on an ordinary node: %q (%v)", r.Stdout, err)
	}
	r, err := s.Run(ctx, cluster.Head, fmt.Sprintf(launch, cluster.S1))
	if err != nil {
		return err
	}
	if strings.Contains(r.Stdout, "uid=0") {
		return fmt.Errorf("root ran a step on a dedicated node")
	}
	return idle(ctx, s, cluster.S1)
}

// stepIntoJob: Slurm lets a job's owner start steps in it from anywhere.
func stepIntoJob(ctx context.Context, s *deploy.Site) error {
	return during(ctx, s, "step", func() error {
		r, err := s.RunAs(ctx, "alice", cluster.Login,
			"timeout 60 srun --jobid=$(squeue -h -u alice -o %A) --overlap -n1 cat /data/secret.txt 2>&1")
		if err != nil {
			return err
		}
		if strings.Contains(r.Stdout, Secret) {
			return fmt.Errorf("a step from outside read the secret")
		}
		if r.Exit == 0 || !strings.Contains(r.Stdout, "refused in phase admit") {
			return fmt.Errorf("the step was not refused by noded: exit status %d, %q", r.Exit, r.Stdout)
		}
		return nil
	})
}

// sbcastFile: slurmd makes the file, as root for a job of root's.
func sbcastFile(ctx context.Context, s *deploy.Site) error {
	cast := func(node, file string) (bool, error) {
		_, err := s.Run(ctx, cluster.Login, "echo evil > /tmp/evil; j=$(timeout 60 salloc -n1 -w "+node+
			" -p $( [ "+node+" = n1 ] && echo batch || echo secure ) --no-shell 2>&1 | sed -n 's/.*allocation \\([0-9]*\\)$/\\1/p')"+
			"; SLURM_JOB_ID=$j timeout 60 sbcast -f /tmp/evil "+file+"; scancel $j")
		if err != nil {
			return false, err
		}
		r, err := s.Run(ctx, node, "test -e "+file)
		return r.Exit == 0, err
	}
	const unit = "/run/systemd/system/evil.service"
	if written, err := cast(cluster.N1, unit); err != nil || !written {
		return fmt.Errorf("sbcast does not write even on an ordinary node (%v)", err)
	}
	for _, file := range []string{unit, "/etc/ld.so.preload", "/usr/bin/evil", "/etc/cloister/allowed_signers.new"} {
		written, err := cast(cluster.S1, file)
		if err != nil {
			return err
		}
		if written {
			return fmt.Errorf("slurmd wrote %s on a dedicated node", file)
		}
	}
	return idle(ctx, s, cluster.S1)
}
