// Command bench measures what Cloister costs and prints it beside what the
// same work costs without it, taken in the same run, as ratios: the time from
// a node's hand-off to the job's first instruction, the speed of the client's
// volumes, what the key server and sealing take, and what noded does.
//
// It asserts no time and no size: it exits with 1 only if something that it
// measured did not work. docs/bench.md says how to read what it prints.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// node is where sessions are timed: the on-demand one, which both locks and
// unlocks for each of them.
const node = cluster.S2

// runs is how often each thing is timed; medians of an odd number are values
// that were measured.
const (
	handOffRuns = 5
	volumeRuns  = 5
)

// parts are what can be measured alone, in the order in which they are.
var parts = []string{"network", "view", "slurm", "volumes", "kms", "open", "node", "images"}

func main() {
	inside()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	only := flag.String("only", "", "measure only this `part`: "+strings.Join(parts, ", ")+" (open, node and images need a cluster)")
	rounds := flag.Int("pairs", 3500, "how often srun and sbatch are timed with the plugin and without")
	vault := flag.String("vault", "", "the `program` with which the script by hand asks the KMS; make bench builds it (part node)")
	calm := flag.Duration("calm", time.Minute, "how long to wait for other work to end before that")
	flag.Parse()
	if flag.NArg() > 0 || *only != "" && !slices.Contains(parts, *only) || *rounds < 50 {
		flag.Usage()
		os.Exit(2)
	}
	began := time.Now()
	if err := run(ctx, *only, *vault, *rounds, *calm); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
	fmt.Printf("\n%s in all, load average at the end %s\n", time.Since(began).Round(time.Second), load())
}

// run measures the parts, and before the guests take processor time all that
// needs none.
func run(ctx context.Context, only, vault string, pairs int, calm time.Duration) error {
	wanted := func(part string) bool { return only == "" || only == part }
	if err := printHost(); err != nil {
		return err
	}
	natively := native{Pairs: pairs, Calm: calm}
	for _, part := range []string{"network", "view", "slurm"} {
		if wanted(part) {
			natively.Parts = append(natively.Parts, part)
		}
	}
	if len(natively.Parts) > 0 {
		if err := natively.run(ctx); err != nil {
			return err
		}
	}
	if wanted("volumes") {
		bin, err := deploy.Build(ctx, deploy.Release)
		if err != nil {
			return err
		}
		printCores()
		sets, err := measureVolumes(ctx, bin)
		if err != nil {
			return err
		}
		for _, v := range sets {
			v.print()
		}
	}
	if wanted("kms") {
		if err := measureKMS(ctx); err != nil {
			return err
		}
	}
	if !wanted("open") && !wanted("node") && !wanted("images") {
		return nil
	}
	if _, err := os.Stat(vault); wanted("node") && err != nil {
		return fmt.Errorf("the KMS's command line, -vault: %w: start it as make bench ONLY=node, which builds it", err)
	}
	site, err := deploy.Start(ctx, deploy.Release, func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
	if err != nil {
		return err
	}
	defer site.Close()
	b := &bench{site, vault}
	if err := b.printGuest(ctx); err != nil {
		return err
	}
	if wanted("open") {
		if err := b.measureOpen(ctx); err != nil {
			return err
		}
		if err := b.measureAsRoot(ctx); err != nil {
			return err
		}
	}
	if wanted("node") {
		if err := b.measureNode(ctx); err != nil {
			return err
		}
	}
	if !wanted("images") {
		return nil
	}
	images, err := b.measureImages(ctx)
	if err != nil {
		return err
	}
	printImages(images)
	return nil
}

// A bench measures on a site's node.
type bench struct {
	*deploy.Site
	vault string // the KMS's command line
}

func (b *bench) measureNode(ctx context.Context) error {
	idle, err := b.nodedUse(ctx)
	if err != nil {
		return err
	}
	h, err := b.measureHandOff(ctx)
	if err != nil {
		return err
	}
	h.print()
	more, err := b.measureSeveral(ctx)
	if err != nil {
		return err
	}
	printSeveral(more)
	after, err := b.nodedUse(ctx)
	if err != nil {
		return err
	}
	// The one that showed its rules, the one that warmed up, the timed ones.
	printNoded(idle, after, 2+handOffRuns+severalRuns*len(numbers))
	return nil
}
