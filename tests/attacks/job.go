package attacks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/mutant"
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

// changedByte alters what sbatch reads, which is signed but not encrypted: no
// other check would notice.
func changedByte(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "changed", "")
	if err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "sed -i 's/^#SBATCH --time=10$/#SBATCH --time=11/' "+deploy.Home("alice")+"/"+name+".sealed"); err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed", "altered after it was signed")
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

func twice(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "twice", "")
	if err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return fmt.Errorf("the first of the two: %w", err)
	}
	// The results volume must not be in the second one's way.
	if _, err := s.Output(ctx, cluster.Head, "cd "+deploy.Home("alice")+" && mv "+name+".luks first-"+name+".luks"); err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed", "has already run")
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
