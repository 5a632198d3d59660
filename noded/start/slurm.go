package start

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// slurm speaks for a node through Slurm's commands. They retry for minutes, so
// the callers' contexts must end.
type slurm struct{ node string }

func (s slurm) Drain(ctx context.Context, reason string) error {
	return command(ctx, "scontrol", "update", "nodename="+s.node, "state=drain", "reason="+reason)
}

// Cancel leaves the job alone if Slurm has started it anew on another node.
func (s slurm) Cancel(ctx context.Context, job uint32) error {
	return command(ctx, "scancel", "--quiet", "--state=RUNNING", "--nodelist="+s.node, strconv.FormatUint(uint64(job), 10))
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
