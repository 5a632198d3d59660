package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ForTest starts a cluster that lives as long as the test. If the test fails, every node's logs are kept in
// $CLOISTER_LOGS, or in the cache, and the test says where.
func ForTest(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Log == nil {
		opts.Log = t.Logf
	}
	TakeTurn(t)
	began := time.Now()
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("start the cluster: %v", err)
	}
	t.Logf("cluster %s ready in %.1f s", c.id, time.Since(began).Seconds())
	c.EndWith(t)
	return c
}

// EndWith closes the cluster with the test, and keeps every node's logs if the test fails.
func (c *Cluster) EndWith(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, c)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
	})
}

func keepLogs(t testing.TB, c *Cluster) {
	dir := os.Getenv("CLOISTER_LOGS")
	if dir == "" {
		root, err := cacheDir()
		if err != nil {
			t.Logf("logs not kept: %v", err)
			return
		}
		dir = filepath.Join(root, "logs")
	}
	dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+"-"+c.id)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // t.Context() is over by now
	defer cancel()
	if err := c.KeepLogs(ctx, dir); err != nil {
		t.Logf("some logs missing: %v", err)
	}
	t.Logf("logs of all nodes: %s", dir)
}
