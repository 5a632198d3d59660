package attacks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/mutant"
	"cloister/noded/audit"
	format "cloister/sealed"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onJobs are attacks on the sealed job itself and on how it reaches a node.
var onJobs = []Attack{
	{Number: 3, Who: "A1", Name: "root on the file server changes a byte of a sealed job", Defences: defences(mutant.SignatureCheck), Try: changedByte},
	{Number: 5, Who: "A4", Name: "another registered user signs a stolen sealed job anew", Defences: defences(mutant.SignerBinding), Try: resigned},
	{Number: 6, Who: "A1 A4", Name: "the same sealed job is submitted again", Defences: defences(mutant.SingleUse), Try: twice},
	{Number: 31, Who: "A2 A4", Name: "a refused step brings a task epilog", Defences: defences(mutant.NoexecParent), Try: taskEpilog},
}

// resigned: root on the file server copies alice's files to bob, who signs
// what she signed.
func resigned(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "stolen", "")
	if err != nil {
		return err
	}
	file, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), name+".sealed"))
	if err != nil {
		return err
	}
	again, err := signedBy(s, "bob", string(file), format.Namespace)
	if err != nil {
		return err
	}
	if err := upload(ctx, s, "bob", name+".sealed", again); err != nil {
		return err
	}
	if err := give(ctx, s, "alice", Volume, "bob"); err != nil {
		return err
	}
	return refused(ctx, s, "bob", "--secure "+name+".sealed", "was sealed with the key")
}

// twice submits a sealed job twice at once, and later to a node that has never
// seen it, which asks the KMS with a token that is gone.
func twice(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "twice", "")
	if err != nil {
		return err
	}
	before, err := incidents(ctx, s)
	if err != nil {
		return err
	}
	submit := "cd " + deploy.Home("alice") + " && timeout 60 sbatch --secure " + name + ".sealed"
	out, err := s.OutputAs(ctx, "alice", cluster.Login, submit+" & "+submit+"; wait")
	if err != nil {
		return err
	}
	first, second, _ := strings.Cut(out, "\n")
	var ran int
	var refusal string
	for _, line := range []string{first, second} {
		id, err := deploy.JobNumber(line)
		if err != nil {
			return err
		}
		end, err := s.Wait(ctx, "alice", id, limit)
		if err != nil {
			return err
		}
		if end.State == "COMPLETED" {
			ran++
		} else {
			refusal = end.Output
		}
	}
	if ran != 1 {
		return fmt.Errorf("of two submitted at once %d ran: %s", ran, refusal)
	}
	// The results volume must not be in the next one's way.
	if _, err := s.Output(ctx, cluster.Head, "cd "+deploy.Home("alice")+" && mv "+name+".luks first-"+name+".luks"); err != nil {
		return err
	}
	// What the node remembers of jobs is what another node lacks.
	if _, err := s.Output(ctx, cluster.S2, "rm -f /var/lib/cloister/jobs/*"); err != nil {
		return err
	}
	if err := refused(ctx, s, "alice", "--secure "+name+".sealed", "single-use token is gone"); err != nil {
		return err
	}
	if !strings.Contains(refusal, "has already run") {
		return fmt.Errorf("the second of two at once was refused for another reason: %s", refusal)
	}
	after, err := incidents(ctx, s)
	if err != nil {
		return err
	}
	if after-before != 2 {
		return fmt.Errorf("%d incidents are recorded, want 2", after-before)
	}
	return nil
}

// incidents counts what cluster.S2 recorded of sealed jobs that came twice.
func incidents(ctx context.Context, s *deploy.Site) (uint64, error) {
	return s.Incidents(ctx, cluster.S2, audit.Replayed, audit.TokenUsed)
}

// taskEpilog: slurmstepd itself runs the program, as the user, also when the
// task was refused.
func taskEpilog(ctx context.Context, s *deploy.Site) error {
	home := deploy.Home("alice")
	// The program must work at all, or the test could not fail.
	if _, err := s.OutputAs(ctx, "alice", cluster.Login, `cd && printf '#!/bin/sh\nid > "$0".ran\n' > evil && chmod 755 evil && ./evil && rm evil.ran`); err != nil {
		return err
	}
	r, err := s.RunAs(ctx, "alice", cluster.Login, "cd && timeout 60 srun -p secure -w s1 --task-epilog="+home+"/evil true 2>&1")
	if err != nil {
		return err
	}
	if r.Exit == 0 {
		return got("a dedicated node ran an ordinary step")
	}
	if ran, err := s.Run(ctx, cluster.Head, "test -e "+home+"/evil.ran"); err != nil {
		return err
	} else if ran.Exit == 0 {
		_, _ = s.Output(ctx, cluster.Head, "rm "+home+"/evil.ran")
		return got("the task epilog ran on a dedicated node")
	}
	if !strings.Contains(r.Stdout, "sealed jobs only") {
		return fmt.Errorf("srun does not say why: %q", r.Stdout)
	}
	return idle(ctx, s, cluster.S1)
}
