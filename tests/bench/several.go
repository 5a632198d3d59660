package main

import (
	"context"
	"fmt"
	"strings"
)

// numbers are how many volumes a job has, one of them made on the node. Nodes
// allow eight unless their policy says otherwise.
var numbers = []int{1, 2, 4, 8}

// severalRuns is how often each is timed.
const severalRuns = 3

// A several is a number of volumes and the sessions with it.
type several struct {
	volumes  int
	sessions []session
}

// measureSeveral times sealed jobs with more and fewer volumes, by turns.
func (b *bench) measureSeveral(ctx context.Context) ([]several, error) {
	most := numbers[len(numbers)-1]
	for i := 1; i < most; i++ {
		if err := b.MakeVolume(ctx, who, more(i), map[string]string{"data.txt": strings.Repeat("patients\n", 1<<20/9)}); err != nil {
			return nil, err
		}
	}
	all := make([]several, len(numbers))
	for run := range severalRuns {
		for i, n := range numbers {
			name := fmt.Sprintf("bench-%d-of-%d", run, n)
			var lines string
			for k := 1; k < n; k++ {
				lines += fmt.Sprintf("#CLOISTER volume=%s:/data%d:ro\n", more(k), k)
			}
			results := name + ".luks"
			text := script(results, "echo \"$EPOCHREALTIME\"\n")
			text = strings.Replace(text, "#CLOISTER volume="+dataName+":/data:ro\n", lines, 1)
			s, _, err := b.timed(ctx, name, text)
			if err != nil {
				return nil, err
			}
			all[i].volumes = n
			all[i].sessions = append(all[i].sessions, s)
		}
	}
	return all, nil
}

func more(i int) string { return fmt.Sprintf("bench-more-%d.luks", i) }

func printSeveral(all []several) {
	fmt.Printf("\nHand-off with more volumes: one made, the others to read; medians of %d, by turns\n", severalRuns)
	fmt.Printf("  %-10s %19s %12s %12s %12s\n", "volumes", "first instruction", "files", "unlock", "release")
	for _, c := range all {
		of := func(value func(session) float64) float64 { return median(column(c.sessions, value)) }
		fmt.Printf("  %-10d %17.2f s %10.2f s %10.2f s %10.2f s\n", c.volumes, of(func(s session) float64 { return s.first }),
			of(func(s session) float64 { return s.parts.took("files") }), of(func(s session) float64 { return s.parts.took("unlock") }),
			of(func(s session) float64 { return s.released - s.releaseParts.took("flush") }))
	}
}
