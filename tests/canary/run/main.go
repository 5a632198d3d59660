// Command run is `make canary`: it searches everything around a secure job for what the job held.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cloister/tests/canary"
	"cloister/tests/deploy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "canary: "+err.Error())
		os.Exit(1)
	}
	fmt.Println("Nothing was found that should not be there, and everything that was planted.")
}

func run(ctx context.Context) error {
	s, err := deploy.Start(ctx, deploy.Release, func(f string, a ...any) { fmt.Printf(f+"\n", a...) })
	if err != nil {
		return err
	}
	defer s.Close()
	return canary.Run(ctx, s, os.Stdout)
}
