package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSlurm are attacks by those who control Slurm or hold a user's name in it.
var onSlurm = []Attack{
	{Number: 11, Who: "A1 A2 A4", Name: "who is root on the login node starts a step in the victim's job, as the victim", Control: stepIntoOpenJob, During: stepIntoJob},
}

// stepIntoJob: Slurm lets a job's owner start steps in it from anywhere.
func stepIntoJob(ctx context.Context, s *deploy.Site, v Victim) error {
	r, err := s.RunAs(ctx, "alice", cluster.Login, fmt.Sprintf("timeout 60 srun --jobid=%d --overlap -n1 cat /data/secret.txt 2>&1", v.Job))
	if err != nil {
		return err
	}
	if strings.Contains(r.Stdout, Secret) {
		return got("a step from outside read the secret")
	}
	if r.Exit == 0 || !strings.Contains(r.Stdout, "refused in phase admit") {
		return fmt.Errorf("the step was not refused by noded: exit status %d, %q", r.Exit, r.Stdout)
	}
	return nil
}

// stepIntoOpenJob is the same where there is no Cloister.
func stepIntoOpenJob(ctx context.Context, s *deploy.Site) error {
	id, err := s.Submit(ctx, "alice", "-p batch -o /dev/null --wrap 'echo "+Secret+" > /dev/shm/secret.txt; sleep 60'")
	if err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, fmt.Sprintf("scancel %d", id))
	if err := s.Started(ctx, "alice", id, cluster.N1); err != nil {
		return err
	}
	r, err := s.RunAs(ctx, "alice", cluster.Login, fmt.Sprintf("timeout 60 srun --jobid=%d --overlap -n1 cat /dev/shm/secret.txt 2>&1", id))
	if err != nil {
		return err
	}
	if strings.Contains(r.Stdout, Secret) {
		return got("a step from outside read the job's private file")
	}
	return fmt.Errorf("srun --overlap does not reach an open job: %q", r.Stdout)
}
