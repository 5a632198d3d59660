package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// report says what was done and what came of it.
func (s *Soak) report() {
	fmt.Fprintf(s.out, "\n%-24s %5s %9s  jobs ended as\n", "what befell the job", "jobs", "records")
	total := count{ends: map[string]int{}}
	for _, b := range order {
		c := count{ends: map[string]int{}}
		for _, l := range s.lanes {
			c.add(l.counts[b])
		}
		if total.add(&c); c.jobs > 0 {
			fmt.Fprintf(s.out, "%-24s %5d %9d  %s\n", b, c.jobs, c.records, c.states())
		}
	}
	fmt.Fprintf(s.out, "%-24s %5d %9d  %s\n", "in all", total.jobs, total.records, total.states())
	fmt.Fprintln(s.out, "\nrecords: those known to be on disk before the blow, and all of a job that completed; each was looked for in what came home.")
	for _, l := range s.lanes {
		fmt.Fprintf(s.out, "\n%s: %d sessions; noded's longest life: %s\n", l.node, len(l.samples), longest(l.samples))
		for _, f := range l.fences {
			fmt.Fprintf(s.out, "  fenced, and recovered, after %s\n", f)
		}
	}
	if len(s.bad) == 0 {
		fmt.Fprintln(s.out, "\nnothing was left over, and nothing was lost")
		return
	}
	fmt.Fprintln(s.out, "\nnot as it must be:")
	for _, b := range s.bad {
		fmt.Fprintln(s.out, "  "+b)
	}
}

func (c *count) add(o *count) {
	if o == nil {
		return
	}
	c.jobs += o.jobs
	c.records += o.records
	for state, n := range o.ends {
		c.ends[state] += n
	}
}

func (c *count) states() string {
	var all []string
	for _, state := range slices.Sorted(maps.Keys(c.ends)) {
		all = append(all, fmt.Sprintf("%s %d", state, c.ends[state]))
	}
	return strings.Join(all, ", ")
}

// longest tells of the noded that served most sessions: how it was after the
// first of them and after the last.
func longest(all []sample) string {
	var best []sample
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].pid == all[i].pid {
			j++
		}
		if j-i > len(best) {
			best = all[i:j]
		}
		i = j
	}
	if len(best) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d sessions, %v at first, %v at last", len(best), best[0], best[len(best)-1])
}
