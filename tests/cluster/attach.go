package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// record is what another process needs to use a cluster that this one runs.
type record struct {
	Netns string `json:"netns"`
	Name  string `json:"name"`
}

// Publish lets Attach find the cluster by a name. The guests' agents take one connection at a time, so the publishing
// process must not run commands any more.
func (c *Cluster) Publish(name string) error {
	b, err := json.Marshal(record{c.boot.ns, name})
	if err != nil {
		return fmt.Errorf("publish the cluster: %w", err)
	}
	for _, g := range c.nodes {
		g.agent.close()
	}
	if err := os.WriteFile(filepath.Join(c.dir, "cluster.json"), b, 0o600); err != nil {
		return fmt.Errorf("publish the cluster: %w", err)
	}
	return nil
}

// Attach finds the published cluster of that name on this host, to run commands and copy files. It can't Restart
// nodes and must not be closed: the cluster belongs to its own process.
func Attach(name string) (*Cluster, error) {
	runs, err := runsDir()
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(runs, "*", "cluster.json"))
	if err != nil {
		return nil, fmt.Errorf("find a running cluster: %w", err)
	}
	for _, path := range found {
		dir := filepath.Dir(path)
		if lock, err := tryLock(filepath.Join(dir, "lock")); err == nil {
			lock.unlock() // its process has died
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if r.Name != name {
			continue
		}
		c := &Cluster{id: filepath.Base(dir), dir: dir, waiting: map[string]func(net.Conn){}}
		c.boot.ns = r.Netns
		c.addNodes()
		return c, nil
	}
	return nil, fmt.Errorf("no cluster %q is running; start one with: make cluster", name)
}

// Shell connects to the root shell on a node's second console. It takes one user at a time, and it works on a
// locked node.
func (c *Cluster) Shell(node string) (net.Conn, error) {
	g, err := c.guest(node)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", filepath.Join(g.dir, g.spec.Name+".shell"))
	if err != nil {
		return nil, fmt.Errorf("open %s's shell: %w", node, err)
	}
	return conn, nil
}
