// Package canary runs whole secure jobs whose data, file names, script, environment and result hold known
// random words, and then searches everything that the jobs could have left anything on for those words, the
// volume keys, the job keys and the tokens.
//
// In each of the places it plants values of the same kinds first and demands to find them: a search that
// cannot find is no search.
package canary

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// Run does all of it on a fresh site and writes a table. An error says that something was found which should
// not be there, that something planted was not found, or that the jobs did not do what they were to do.
func Run(ctx context.Context, s *deploy.Site, out io.Writer) error {
	dir, err := os.MkdirTemp("", "cloister-canary-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	stop, err := s.Capture(ctx, dir+"/"+captureFile)
	if err != nil {
		return err
	}
	capturing := true
	defer func() {
		if capturing {
			_ = stop()
		}
	}()
	jobs, err := runJobs(ctx, s, dir, say)
	if err != nil {
		return err
	}
	say("the jobs ended, their results are right, the nodes are idle again")
	places := allPlaces()
	if err := plant(ctx, s, places); err != nil {
		return fmt.Errorf("planting: %w", err)
	}
	capturing = false
	if err := stop(); err != nil {
		return err
	}
	// Memory first: what is fetched afterwards goes through it.
	for _, node := range secureNodes {
		if err := s.SaveMemory(ctx, node, memoryFile(dir, node)); err != nil {
			return err
		}
	}
	if keep := os.Getenv("CANARY_KEEP"); keep != "" { // for those who chase a hit
		defer func() { _ = os.Rename(dir, keep) }()
	}
	for _, node := range cluster.Nodes {
		if _, err := s.Output(ctx, node, "sync"); err != nil {
			return err
		}
	}
	say("searching")
	found, err := searchAll(ctx, s, dir, places, jobs.needles)
	if err != nil {
		return err
	}
	say("done")
	return found.report(out)
}
