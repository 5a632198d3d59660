package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// The three sides of a round. The third is the second once more: what it
// differs by is noise.
const (
	with = iota
	without
	again
	sides
)

// aRound is what one side took, in seconds.
type aRound struct {
	srun   float64 // srun true, as its user sees it
	sbatch float64 // sbatch --wrap true, to the job's number
	batch  float64 // that job's slurmstepd
}

// measureSlurm is everything that the plugin costs a job which has nothing to
// do with it.
func (n native) measureSlurm(ctx context.Context) error {
	nice := favour()
	s, err := startSlurm(ctx, n)
	if err != nil {
		return err
	}
	stepds, err := s.stepds(ctx)
	if err != nil {
		return err
	}
	calm := quiet(ctx, n.Calm)
	before := load()
	began := time.Now()
	var times [sides][]aRound
	for round := range warmUp + n.Pairs {
		for _, side := range rand.Perm(sides) {
			t, err := s.round(ctx, side == with)
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			if round >= warmUp {
				times[side] = append(times[side], t)
			}
		}
	}
	fmt.Printf("\nSlurm without --secure, natively: %s; %d rounds in %s, nice %d, load average %s before (waited %s for it), %s after\n",
		version(ctx), n.Pairs, time.Since(began).Round(time.Second), nice, before, calm.Round(time.Second), load())
	printOverhead(times)
	counts, err := s.instructions(ctx)
	if err != nil {
		return err
	}
	counts.print()
	stepds.print()
	return nil
}

// warmUp rounds are not counted.
const warmUp = 10

// round is one side's turn.
func (s *slurm) round(ctx context.Context, plugin bool) (t aRound, err error) {
	if err := s.load(plugin); err != nil {
		return t, err
	}
	if t.srun, err = s.user(ctx, "srun", "true"); err != nil {
		return t, err
	}
	if _, err := s.spool.step(ctx); err != nil {
		return t, err
	}
	if t.sbatch, err = s.user(ctx, "sbatch", "--output=/dev/null", "--wrap", "true"); err != nil {
		return t, err
	}
	t.batch, err = s.spool.step(ctx)
	return t, err
}

// quiet waits, for so long at most, until other work leaves the machine a
// core. That cannot favour a side: they take turns.
func quiet(ctx context.Context, most time.Duration) (waited time.Duration) {
	const calm = 1.0
	for began := time.Now(); ; time.Sleep(2 * time.Second) {
		waited = time.Since(began)
		var now float64
		if _, err := fmt.Sscan(load(), &now); err != nil || now < calm || waited >= most || ctx.Err() != nil {
			return waited
		}
	}
}

func printOverhead(times [sides][]aRound) {
	fmt.Printf("  %-26s %10s %10s   %-20s %-20s %-20s\n", "", "without", "with",
		"ratio in pairs", "ratio of medians", "without / without, in pairs")
	for _, row := range []struct {
		name   string
		of     func(aRound) float64
		budget bool
	}{
		{"srun true", func(r aRound) float64 { return r.srun }, true},
		{"sbatch --wrap true", func(r aRound) float64 { return r.sbatch }, true},
		{"that job's slurmstepd", func(r aRound) float64 { return r.batch }, false},
	} {
		a, b, c := column(times[with], row.of), column(times[without], row.of), column(times[again], row.of)
		pairs, medians := paired(a, b), ofMedians(a, b)
		fmt.Printf("  %-26s %7.2f ms %7.2f ms   %-20s %-20s %-20s%s\n", row.name, 1e3*median(b), 1e3*median(a),
			pairs, medians, paired(c, b), verdict(row.budget, max(pairs.upper, medians.upper)))
	}
}

// verdict holds the worse of two bounds against DESIGN.md's budget.
func verdict(budget bool, upper float64) string {
	const most = 1.02
	switch {
	case !budget:
		return ""
	case upper <= most:
		return fmt.Sprintf("  budget ≤ %.2f: met", most)
	}
	return fmt.Sprintf("  budget ≤ %.2f: not met", most)
}
