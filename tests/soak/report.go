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
		fmt.Fprintf(s.out, "\n%s: %d secure jobs, %d ordinary; the longest life of %d of noded:\n", l.node, l.sessions, l.ordinaries, len(lives(l.samples)))
		longest(l.samples).tell(s.out)
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
