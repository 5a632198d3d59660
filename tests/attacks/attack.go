// Package attacks holds the attacks of docs/threat-model.md as programs that
// try them on a real cluster.
//
// An attack that is refused as it must be returns nil; one that succeeds, even
// in part, returns an error that says what the attacker got. Each names the
// defence whose mutant lets it succeed, so that it is known to be able to fail.
package attacks

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// An Attack is one row of docs/threat-model.md, or a part of one.
type Attack struct {
	// Number is the row's.
	Number int
	// Name says who tries what.
	Name string
	// Defence stands against it; empty where it has no mutant.
	Defence mutant.Defence
	Try     func(ctx context.Context, s *deploy.Site) error
}

// All are in the order of mutant.All, then those without a mutant.
var All = []Attack{
	{3, "root on the file server changes a byte of a sealed job", mutant.SignatureCheck, changedByte},
	{5, "another registered user signs a stolen sealed job anew", mutant.SignerBinding, resigned},
	{6, "the same sealed job is submitted twice", mutant.SingleUse, twice},
	{12, "sshd answers during a session", mutant.StopSSH, sshAnswers},
	{13, "a login node connects to a listener on the locked node", mutant.DefaultDrop, portOpen},
	{19, "root on the file server swaps a volume's header", mutant.PinnedHeader, swappedHeader},
	{31, "a refused step brings a task epilog", mutant.NoexecParent, taskEpilog},
	{9, "a submitting host plants shell functions in the environment", mutant.CleanEnvironment, plantedFunction},
	{2, "who controls Slurm launches a step on a dedicated node without an allocation", "", noAllocation},
	{11, "who is root on the login node starts a step in the victim's job, as the victim", "", stepIntoJob},
	{33, "root on the login node has slurmd write system files", "", sbcastFile},
}

// Secret is in the volume of every attacked job.
const Secret = "canary-3f1c-the-patients-record"

// Volume is the file name of the volume with Secret in secret.txt.
const Volume = "in.luks"

// Prepare makes alice's volume, once for a site.
func Prepare(ctx context.Context, s *deploy.Site) error {
	return s.MakeVolume(ctx, "alice", Volume, map[string]string{"secret.txt": Secret + "\n"})
}

// job is a script that reads the secret and writes it to its results.
func job(results, body string) string {
	return `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=` + Volume + `:/data:ro
#CLOISTER volume=` + results + `:/results:rw,create,size=32M
#CLOISTER output=/results/out.txt
` + body
}

var tries atomic.Int64

// fresh is a name that no earlier try used, so that none stands in the way of
// the next.
func fresh(name string) string { return fmt.Sprintf("%s-%d", name, tries.Add(1)) }

// sealed seals a job of alice's that prints the secret and does more, and
// returns its name: the sealed job is name.sealed, the results name.luks.
func sealed(ctx context.Context, s *deploy.Site, kind, more string) (name string, err error) {
	name = fresh(kind)
	return name, s.Seal(ctx, "alice", name, job(name+".luks", "cat /data/secret.txt\n"+more))
}

// completed waits for a job of alice's that must run to its end.
func completed(ctx context.Context, s *deploy.Site, id uint32) error {
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	if end.State != "COMPLETED" {
		return fmt.Errorf("the job is %s: %s", end.State, end.Output)
	}
	return nil
}

const limit = 4 * time.Minute

// refused runs a sealed job that must be refused, and says what was wrong with
// the refusal.
func refused(ctx context.Context, s *deploy.Site, who, args, because string) error {
	id, err := s.Submit(ctx, who, args)
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, who, id, limit)
	if err != nil {
		return err
	}
	if end.State != "FAILED" {
		return fmt.Errorf("the job ran: it is %s, not FAILED: %s", end.State, end.Output)
	}
	if !strings.Contains(end.Output, because) {
		return fmt.Errorf("the job's output does not say %q but %q", because, end.Output)
	}
	return idle(ctx, s, end.Node)
}

// idle wants a node that Slurm has in service and on which nothing is left.
func idle(ctx context.Context, s *deploy.Site, node string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		state, err := s.NodeState(ctx, node)
		if err != nil {
			return err
		}
		left, err := s.Traces(ctx, node)
		if err != nil {
			return err
		}
		if state == "idle" && left == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("afterwards node %s is %s, and on it: %s", node, state, left)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// during submits a sealed job, calls look once its script runs, and lets it
// end.
func during(ctx context.Context, s *deploy.Site, name string, look func() error) error {
	// The script runs as long as nobody killed its sleep.
	name, err := sealed(ctx, s, name, "sleep 1000 || true\n")
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
	found := look()
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return err
	}
	if found != nil {
		return found
	}
	return idle(ctx, s, cluster.S2)
}
