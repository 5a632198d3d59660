package attacks

import (
	"context"
	"errors"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onUsers alter what Slurm knows of a job's user.
var onUsers = []Attack{
	{Number: 34, Who: "A1 A2", Name: "the controller's user database, or root on the login node, adds the group disk to the victim's job", Defences: defences(mutant.OwnUserDatabase),
		Try: addedGroup},
}

// addedGroup tries both ways. Only the first can be seen to succeed: with disk
// as its primary group a job fails at its output file even without this
// defence, because the volumes' mounts map no other group than the user's own.
func addedGroup(ctx context.Context, s *deploy.Site) error {
	if err := groupOfController(ctx, s); err != nil {
		return err
	}
	return groupOfSubmitter(ctx, s)
}

// groupOfController: slurmctld looks the user's groups up on its own host and
// sends them with the job. The home there is another one too.
func groupOfController(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "groups", whoAmI)
	if err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "cp -a /etc/passwd /etc/group /root/ && usermod -aG disk -d /etc alice && timeout 60 scontrol reconfigure && sleep 1"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, "cp -a /root/passwd /root/group /etc/ && timeout 60 scontrol reconfigure")
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	return inGroup(ctx, s, id, name)
}

// groupOfSubmitter: a process of root's takes any ids, and munge vouches.
func groupOfSubmitter(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "group", whoAmI)
	if err != nil {
		return err
	}
	out, err := s.Output(ctx, cluster.Login, "exec setpriv --reuid=alice --regid=disk --groups=disk,alice --reset-env sh -c 'cd "+deploy.Home("alice")+" && timeout 60 sbatch --secure "+name+".sealed'")
	if err != nil {
		return err
	}
	id, err := deploy.JobNumber(out)
	if err != nil {
		return err
	}
	return inGroup(ctx, s, id, name)
}

const whoAmI = "id; echo HOME=$HOME\n"

// inGroup looks how a job ended that came with the group disk.
func inGroup(ctx context.Context, s *deploy.Site, id uint32, name string) error {
	err := refusedJob(ctx, s, "alice", id, "gets the group 6 from Slurm and not from this node's user database")
	var success Success
	if !errors.As(err, &success) {
		return err
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	if strings.Contains(printed, "6(disk)") {
		return got("the job had the group disk")
	}
	return got("the job ran: %q", printed)
}
