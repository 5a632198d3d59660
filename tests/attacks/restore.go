package attacks

import (
	"context"
	"errors"
	"fmt"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

var nodes = []string{cluster.S1, cluster.S2, cluster.N1}

// AllIdle wants every node in service and clean: no attack by an ordinary user
// may take one away.
func AllIdle(ctx context.Context, s *deploy.Site) error {
	var all []error
	for _, node := range nodes {
		state, err := s.NodeState(ctx, node)
		if err == nil && state != "idle" {
			err = fmt.Errorf("node %s is %s", node, state)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// Restore ends what an attack that succeeded may have left, so that the next
// one finds the site as new: jobs and their processes, locks, drained nodes.
func Restore(ctx context.Context, s *deploy.Site) error {
	if _, err := s.Output(ctx, cluster.Head, "timeout 30 scancel -u alice,bob,carol,root; true"); err != nil {
		return err
	}
	for _, node := range nodes {
		if _, err := s.Output(ctx, node, "for i in $(seq 100); do pgrep -u alice,bob,carol >/dev/null || break; sleep 0.2; done; pkill -KILL -u alice,bob,carol; "+
			"! systemctl show -p StatusText cloister-noded | grep -q fenced || cloister node recover"); err != nil {
			return err
		}
		r, err := s.Run(ctx, cluster.Head, "timeout 30 scontrol update nodename="+node+" state=resume")
		if err != nil {
			return fmt.Errorf("resuming node %s: %w: %s", node, err, r.Stderr) // a node in service cannot be resumed
		}
	}
	return nil
}
