package attacks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSteps are attacks by which a step gets into a session that takes steps.
var onSteps = []Attack{
	{Number: 11, Who: "A1 A2 A4", Name: "a step from outside brings no proof", Defences: defences(mutant.StepProof), During: stepIntoJob},
	{Number: 11, Who: "A1 A3", Name: "a proof that a step of the job used is sent again with other arguments", Defences: defences(mutant.StepProof), Try: replayedProof},
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
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		return err
	}
	found := replay(ctx, s, id)
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
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

func replay(ctx context.Context, s *deploy.Site, job uint32) error {
	proof, err := s.Output(ctx, cluster.S2, "cat /proc/$(pgrep -x sleep -u alice)/root/tmp/proof")
	if err != nil {
		return err
	}
	proof = strings.TrimSpace(proof)
	if !strings.HasPrefix(proof, "1:") {
		return fmt.Errorf("no proof to send again: %q", proof)
	}
	r, err := s.RunAs(ctx, "alice", cluster.Login, fmt.Sprintf("cd /tmp && SLURM_CLOISTER_PROOF=%s timeout 60 srun --jobid=%d --overlap -n1 cat /data/secret.txt 2>&1", proof, job))
	if err != nil {
		return err
	}
	if strings.Contains(r.Stdout, Secret) {
		return got("a step with a used proof read the secret")
	}
	if r.Exit == 0 || !strings.Contains(r.Stdout, "not the one that was started inside the secure job") {
		return fmt.Errorf("the step was not refused for its proof: exit status %d, %q", r.Exit, r.Stdout)
	}
	log, err := s.Output(ctx, cluster.S2, fmt.Sprintf("journalctl -u cloister-noded -o cat | grep incident: | grep -c '\"job\":%d'", job))
	if err != nil || strings.TrimSpace(log) == "0" {
		return fmt.Errorf("no incident was recorded: %q, %w", log, err)
	}
	return nil
}
