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
	times, err := turns(ctx, n.Pairs, s.round)
	if err != nil {
		return err
	}
	took, after := time.Since(began), load()
	fmt.Printf("\nSlurm without --secure, natively: %s; %d rounds in %s, nice %d, load average %s before (waited %s for it), %s after\n",
		version(ctx), n.Pairs, took.Round(time.Second), nice, before, calm.Round(time.Second), after)
	printOverhead(times)
	stepds.print()
	counts, err := s.instructions(ctx)
	if err != nil {
		return err
	}
	counts.print()
	// Jobs that wait would slow down the start of these.
	if err := s.root(ctx, "scancel", "--partition=later"); err != nil {
		return err
	}
	batch, err := turns(ctx, batchRounds, s.batch)
	if err != nil {
		return err
	}
	printRow("a batch job's slurmstepd", batch)
	fmt.Printf("%d rounds, no budget\n", batchRounds)
	return nil
}

const (
	// warmUp rounds are not counted.
	warmUp = 5
	// batchRounds are few: Slurm starts batch jobs once in a second.
	batchRounds = 25
	// swept is how many rounds' jobs are left in slurmctld.
	swept = 50
)

// turns gives each side its turn, in random order, as often as is asked for.
func turns[T any](ctx context.Context, rounds int, take func(ctx context.Context, plugin bool, round int) (T, error)) (all [sides][]T, err error) {
	for round := range warmUp + rounds {
		for _, side := range rand.Perm(sides) {
			t, err := take(ctx, side == with, round)
			if err != nil {
				return all, fmt.Errorf("round %d: %w", round, err)
			}
			if round >= warmUp {
				all[side] = append(all[side], t)
			}
		}
	}
	return all, nil
}

// round times the two client commands. The batch job waits in a partition that
// starts none, or slurmctld's start of it would come in somebody's time.
func (s *slurm) round(ctx context.Context, plugin bool, round int) (t aRound, err error) {
	if err := s.load(plugin); err != nil {
		return t, err
	}
	if t.srun, err = s.user(ctx, "srun", "true"); err != nil {
		return t, err
	}
	if _, err := s.spool.step(ctx); err != nil {
		return t, err
	}
	if t.sbatch, err = s.user(ctx, "sbatch", "--partition=later", "--output=/dev/null", "--wrap", "true"); err != nil {
		return t, err
	}
	if round%swept == swept-1 {
		return t, s.root(ctx, "scancel", "--partition=later")
	}
	return t, nil
}

// batch runs a batch job and times its slurmstepd.
func (s *slurm) batch(ctx context.Context, plugin bool, _ int) (float64, error) {
	if err := s.load(plugin); err != nil {
		return 0, err
	}
	if _, err := s.user(ctx, "sbatch", "--output=/dev/null", "--wrap", "true"); err != nil {
		return 0, err
	}
	return s.spool.step(ctx)
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
	by := func(of func(aRound) float64) (out [sides][]float64) {
		for side := range times {
			out[side] = column(times[side], of)
		}
		return out
	}
	fmt.Println(verdict(printRow("srun true", by(func(r aRound) float64 { return r.srun }))))
	fmt.Println(verdict(printRow("sbatch --wrap true", by(func(r aRound) float64 { return r.sbatch }))))
}

// printRow prints one thing's estimates and returns the larger bound of the
// plugin's.
func printRow(name string, values [sides][]float64) (upper float64) {
	a, b, c := values[with], values[without], values[again]
	pairs, medians := paired(a, b), ofMedians(a, b)
	fmt.Printf("  %-26s %7.2f ms %7.2f ms   %-20s %-20s %-20s       ", name, 1e3*median(b), 1e3*median(a), pairs, medians, paired(c, b))
	return max(pairs.upper, medians.upper)
}

// verdict holds the worse of two bounds against DESIGN.md's budget.
func verdict(upper float64) string {
	const most = 1.02
	if upper <= most {
		return fmt.Sprintf("budget ≤ %.2f: met", most)
	}
	return fmt.Sprintf("budget ≤ %.2f: not met", most)
}
