package attacks

import (
	"context"
	"errors"
	"os"

	"cloister/mutant"
	"cloister/tests/canary"
	"cloister/tests/deploy"
)

// onCanary is what is left to find after a job. Its control run is a job that
// sees the user's home on the file server, and writes there.
var onCanary = []Attack{
	{Number: 30, Who: "A1 A3", Name: "whoever reads all disks, the shared file system, Slurm's state, journals, traffic and the secure nodes' memory looks for what two jobs held", Long: true,
		Defences: defences(mutant.HiddenRoots), Try: lookEverywhere},
}

func lookEverywhere(ctx context.Context, s *deploy.Site) error {
	err := canary.Run(ctx, s, os.Stderr)
	if leak, ok := errors.AsType[canary.Leak](err); ok {
		return got("found in %s", leak)
	}
	return err
}
