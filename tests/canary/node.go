package canary

import (
	"context"
	"io"

	"cloister/tests/canary/search"
	"cloister/tests/deploy"
)

// A NodeSearch searches one node's memory and disk, as often as it is asked.
type NodeSearch struct {
	site      *deploy.Site
	dir, node string
	places    []*place
}

// NewNodeSearch plants what each search must find. The memory is kept in dir.
func NewNodeSearch(ctx context.Context, s *deploy.Site, dir, node string) (*NodeSearch, error) {
	n := &NodeSearch{s, dir, node, []*place{memoryOf(node), diskOf(node)}}
	return n, plant(ctx, s, n.places)
}

// Freeze takes the memory as it is now, and has the node write to its disk what it has to write.
func (n *NodeSearch) Freeze(ctx context.Context) error {
	if err := n.site.SaveMemory(ctx, n.node, memoryFile(n.dir, n.node)); err != nil {
		return err
	}
	_, err := n.site.Output(ctx, n.node, "sync")
	return err
}

// Search looks for secrets in what Freeze took. An error says what was found, or that what was planted was not; out
// gets the table.
func (n *NodeSearch) Search(ctx context.Context, secrets []search.Needle, out io.Writer) error {
	found, err := searchAll(ctx, n.site, n.dir, n.places, secrets)
	if err != nil {
		return err
	}
	return found.report(out)
}
