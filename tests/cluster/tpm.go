package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// AddTPM gives a node a TPM 2.0 of its own, a fresh one, and reboots the node: QEMU cannot plug one in. The
// TPM keeps what it has through later restarts of the node, and goes with the cluster.
func (c *Cluster) AddTPM(ctx context.Context, node string) error {
	g, err := c.guest(node)
	if err != nil {
		return err
	}
	if err := needPrograms("swtpm"); err != nil {
		return err
	}
	if _, err := c.Output(ctx, node, "sync"); err != nil {
		return err
	}
	g.kill()
	if err := g.startTPM(ctx, c.boot.ns); err != nil {
		return fmt.Errorf("a TPM for %s: %w", node, err)
	}
	return c.Restart(ctx, node)
}

func (n *node) tpm() string { return filepath.Join(n.dir, n.spec.Name+".swtpm") }

// startTPM runs the emulator in the cluster's namespace, where the sweep of dead clusters finds it too.
func (n *node) startTPM(ctx context.Context, ns string) error {
	name := n.spec.Name
	if err := os.Mkdir(filepath.Join(n.dir, name+".tpm"), 0o700); err != nil {
		return err
	}
	cmd := exec.Command("ip", "netns", "exec", ns, "swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+name+".tpm", "--ctrl", "type=unixio,path="+name+".swtpm", "--log", "file="+name+".tpm/log,level=1")
	cmd.Dir = n.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := startOnKeptThread(cmd); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(n.tpm()); err == nil {
			n.hasTPM = true
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("swtpm ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tpmArgs are QEMU's for a node's TPM.
func (n *node) tpmArgs() []string {
	if !n.hasTPM {
		return nil
	}
	return []string{"-chardev", "socket,id=tpm,path=" + n.spec.Name + ".swtpm", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"}
}
