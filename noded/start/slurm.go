package start

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// slurm speaks for a node through Slurm's commands. They retry for minutes, so
// the callers' contexts must end.
type slurm struct{ node string }

func (s slurm) Drain(ctx context.Context, reason string) error {
	return command(ctx, "scontrol", "update", "nodename="+s.node, "state=drain", "reason="+reason)
}

func (s slurm) DrainUndrained(ctx context.Context, reason string) (bool, error) {
	if drained, _, err := s.state(ctx); err != nil || drained {
		return false, err
	}
	return true, s.Drain(ctx, reason)
}

// Cancel leaves the job alone if Slurm has started it anew on another node.
func (s slurm) Cancel(ctx context.Context, job uint32) error {
	return command(ctx, "scancel", "--quiet", "--state=RUNNING", "--nodelist="+s.node, strconv.FormatUint(uint64(job), 10))
}

// Resume takes the node out of its drain if the reason is one of noded's.
func (s slurm) Resume(ctx context.Context, mark string) (bool, string, error) {
	drained, reason, err := s.state(ctx)
	if err != nil || !drained || !strings.HasPrefix(reason, mark) {
		return false, reason, err
	}
	return true, reason, command(ctx, "scontrol", "update", "nodename="+s.node, "state=resume")
}

func (s slurm) state(ctx context.Context) (drained bool, reason string, err error) {
	out, err := output(ctx, "scontrol", "--oneliner", "show", "node", s.node)
	if err != nil {
		return false, "", err
	}
	return drain(out)
}

// drain reads from scontrol's line of a node whether it is drained and why.
func drain(line string) (drained bool, reason string, err error) {
	_, state, found := strings.Cut(line, " State=")
	if !found {
		return false, "", fmt.Errorf("scontrol: %.200q tells no state", line)
	}
	state, _, _ = strings.Cut(state, " ")
	if !slices.Contains(strings.Split(state, "+"), "DRAIN") {
		return false, "", nil
	}
	_, reason, _ = strings.Cut(line, " Reason=")
	// Who set it and when comes after it, in brackets.
	if at := strings.LastIndex(reason, " ["); at >= 0 {
		reason = reason[:at]
	}
	return true, strings.TrimSpace(reason), nil
}

func command(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
