package attacks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/noded/audit"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSteps are attacks on a session by steps, and on the steps that it has.
var onSteps = []Attack{
	{Number: 11, Who: "A1 A4", Name: "who is root on the login node starts a step in the victim's job, as the victim", Defences: defences(mutant.NoClients, mutant.StepProof), During: stepFromLogin},
	{Number: 11, Who: "A2", Name: "who controls Slurm starts a step in the victim's job, as the victim", Defences: defences(mutant.StepProof, mutant.DefaultDrop), During: stepFromHead},
	{Number: 11, Who: "A2 A3", Name: "a proof that a step of the job used is sent again with other arguments", Long: true, Defences: defences(mutant.StepProof, mutant.DefaultDrop), Try: replayedProof},
	{Number: 11, Who: "A1 A4", Name: "who is root on the login node attaches to a step of the victim's job", Long: true, Defences: defences(mutant.NoClients), Try: attached},
}

// stepFromLogin: Slurm lets a job's owner start steps in it from anywhere.
func stepFromLogin(ctx context.Context, s *deploy.Site, v Victim) error {
	r, err := s.RunAs(ctx, "alice", cluster.Login, fmt.Sprintf("timeout 15 srun --jobid=%d --overlap -n1 cat /data/secret.txt 2>&1", v.Job))
	if err != nil {
		return err
	}
	if strings.Contains(r.Stdout, Secret) {
		return got("a step from outside read the secret")
	}
	if r.Exit == 0 {
		return fmt.Errorf("srun says that the step ran: %q", r.Stdout)
	}
	return nil
}

// stepFromHead starts a step that srun hears nothing of: a locked node opens no
// connection to the controller's srun, without which slurmstepd starts no task.
// So the packet filter stands against it too. It would show in the job view.
func stepFromHead(ctx context.Context, s *deploy.Site, v Victim) error {
	return blindStep(ctx, s, v.Job, "")
}

// blindStep tries a step with these variables set for srun and looks whether it
// ran and whether noded recorded it.
func blindStep(ctx context.Context, s *deploy.Site, job uint32, variables string) error {
	mark := fmt.Sprintf("/dev/shm/reached-%d", tries.Add(1))
	before, err := intruders(ctx, s)
	if err != nil {
		return err
	}
	if _, err := s.RunAs(ctx, "alice", cluster.Head, fmt.Sprintf("cd /tmp && %s timeout 15 srun --jobid=%d --overlap -n1 touch %s", variables, job, mark)); err != nil {
		return err
	}
	r, err := s.Run(ctx, cluster.S2, "test -e /proc/$(pgrep -o -x sleep -u alice)/root"+mark)
	if err != nil {
		return err
	}
	if r.Exit == 0 {
		return got("a step from outside ran in the job view")
	}
	after, err := intruders(ctx, s)
	if err != nil {
		return err
	}
	if after == before {
		return errors.New("noded recorded no incident: the step may never have come to it")
	}
	return nil
}

// intruders counts the steps that noded on cluster.S2 recorded as intruders.
func intruders(ctx context.Context, s *deploy.Site) (uint64, error) {
	return s.Incidents(ctx, cluster.S2, audit.StepRefused)
}

// attached: slurmstepd gives whoever asks with the victim's name, or root's, a
// copy of what a step prints.
func attached(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "attach", `cd /tmp
srun --overlap -n1 sh -c 'while sleep 1; do cat /data/secret.txt; done' > /dev/null &
sleep 1000 || true
kill %1
`)
	if err != nil {
		return err
	}
	return whileItRuns(ctx, s, name, func(job uint32) error {
		// Its first step has the number 0; it needs a moment to start.
		r, err := s.RunAs(ctx, "alice", cluster.Login, fmt.Sprintf(
			"for i in $(seq 20); do timeout 30 scontrol show step %d.0 2>/dev/null | grep -q RUNNING && break; sleep 1; done; sleep 2; timeout 15 sattach %[1]d.0 2>&1; true", job))
		if err != nil {
			return err
		}
		if strings.Contains(r.Stdout, Secret) {
			return got("sattach read the step's output")
		}
		return nil
	})
}

// whileItRuns submits a sealed job of alice's whose script ends with its last
// sleep, and calls look meanwhile.
func whileItRuns(ctx context.Context, s *deploy.Site, name string, look func(job uint32) error) error {
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		return err
	}
	found := look(id)
	if _, err := s.Output(ctx, cluster.S2, "pkill -f '^sleep 1000' -u alice"); err != nil {
		return errors.Join(found, err)
	}
	if err := completed(ctx, s, id); err != nil {
		return errors.Join(found, err)
	}
	if found != nil {
		return found
	}
	return idle(ctx, s, cluster.S2)
}

// replayedProof gives the attacker what a look into srun or at the network
// would: the proof of a step that ran.
func replayedProof(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "replay", `cd /tmp
printf '#!/bin/sh\necho "$SLURM_CLOISTER_PROOF" > /tmp/proof\n' > /tmp/tell && chmod 755 /tmp/tell
srun --overlap -n1 --epilog=/tmp/tell true
sleep 1000 || true
`)
	if err != nil {
		return err
	}
	return whileItRuns(ctx, s, name, func(job uint32) error { return replay(ctx, s, job) })
}

func replay(ctx context.Context, s *deploy.Site, job uint32) error {
	proof, err := s.Output(ctx, cluster.S2, "cat /proc/$(pgrep -o -x sleep -u alice)/root/tmp/proof")
	if err != nil {
		return err
	}
	proof = strings.TrimSpace(proof)
	if !strings.HasPrefix(proof, "1:") {
		return fmt.Errorf("no proof to send again: %q", proof)
	}
	return blindStep(ctx, s, job, "SLURM_CLOISTER_PROOF="+proof)
}
