// Command soak is `make soak`: random secure jobs on both secure nodes, and what
// can befall them, for as long as it is told.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"cloister/tests/soak"
)

func main() {
	length := flag.Duration("for", 30*time.Minute, "begin jobs for this time")
	seed := flag.Uint64("seed", 0, "the seed of an earlier run, for the same jobs (default: a new one)")
	calm := flag.Bool("calm", false, "nothing that ends noded, to see whether it grows")
	sessions := flag.Int("sessions", 0, "instead, run so many small jobs one after another on the on-demand node, to see whether noded grows")
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length, *seed, *calm, *sessions); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, length time.Duration, seed uint64, calm bool, sessions int) (err error) {
	if sessions == 0 {
		fmt.Printf("soak of %s; SEED=%d deals the same jobs again\n", length, seed)
	}
	s, err := soak.Start(ctx, seed, calm, os.Stdout)
	if err != nil {
		return err
	}
	logs := filepath.Join(os.Getenv("CLOISTER_CACHE"), "logs", fmt.Sprintf("soak-%d", seed))
	defer func() { err = errors.Join(err, s.End(err, logs)) }()
	if sessions > 0 {
		return s.Many(ctx, sessions, length)
	}
	return s.For(ctx, length)
}
