package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// instructionRuns is odd, so that the median was counted.
const instructionRuns = 3

// counted are a command's instructions in user space, by side: with the plugin
// and without.
type counted struct {
	command []string
	by      [2][]float64
}

type counts []counted

var collected = regexp.MustCompile(`Collected : (\d+)`)

// instructions counts what the client commands execute. Unlike times it does
// not depend on what else the machine does; the kernel's share is not in it.
func (s *slurm) instructions(ctx context.Context) (counts, error) {
	all := counts{{command: []string{"srun", "true"}}, {command: []string{"sbatch", "--output=/dev/null", "--wrap", "true"}}}
	for range instructionRuns {
		for i := range all {
			for _, side := range []int{with, without} {
				if err := s.load(side == with); err != nil {
					return nil, err
				}
				n, err := s.count(ctx, all[i].command)
				if err != nil {
					return nil, err
				}
				all[i].by[side] = append(all[i].by[side], n)
			}
		}
	}
	return all, nil
}

func (s *slurm) count(ctx context.Context, command []string) (float64, error) {
	args := append([]string{"valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--vgdb=no"}, command...)
	if _, err := s.user(ctx, args...); err != nil {
		return 0, err
	}
	if _, err := s.spool.step(ctx); err != nil {
		return 0, err
	}
	said, err := os.ReadFile(s.path("out"))
	if err != nil {
		return 0, err
	}
	m := collected.FindSubmatch(said)
	if m == nil {
		return 0, errors.New("valgrind counted nothing")
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func (c counts) print() {
	for _, k := range c {
		a, b := median(k.by[with]), median(k.by[without])
		fmt.Printf("  %-26s %7.2f M  %7.2f M    instructions in user space (valgrind), medians of %d: %+.0f, ratio %.4f\n",
			strings.Replace(strings.Join(k.command, " "), " --output=/dev/null", "", 1), b/1e6, a/1e6, instructionRuns, a-b, a/b)
	}
}
