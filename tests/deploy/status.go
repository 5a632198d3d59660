package deploy

import (
	"context"
	"fmt"

	"cloister/noded/audit"
	"cloister/noded/status"
)

// Status asks a node how it is; exit is that of the command that asks.
func (s *Site) Status(ctx context.Context, node string) (st *status.Status, exit int, err error) {
	r, err := s.Run(ctx, node, "cloister node status --json")
	if err != nil {
		return nil, 0, err
	}
	if st, err = status.Parse([]byte(r.Stdout)); err != nil {
		return nil, 0, fmt.Errorf("the status of %s: exit status %d, %s: %w", node, r.Exit, r.Stdout+r.Stderr, err)
	}
	return st, r.Exit, nil
}

// Incidents counts what a node has recorded of these kinds. The journal is no
// measure of it: it drops its oldest entries when it is full.
func (s *Site) Incidents(ctx context.Context, node string, kinds ...audit.Incident) (n uint64, err error) {
	st, _, err := s.Status(ctx, node)
	if err != nil {
		return 0, err
	}
	for _, k := range kinds {
		n += st.Count(k).All
	}
	return n, nil
}
