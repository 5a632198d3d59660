// Package nodecheck looks whether a node is what a secure node must be, and
// says exactly what is wrong and what to change. It changes nothing.
//
// What it cannot read or does not know is a fault. It believes what the running
// slurmd lives in, not what its unit file says.
package nodecheck

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// A Node is where the facts are read; the zero value of a field means the
// usual place.
type Node struct {
	SlurmConf    string   // default /etc/slurm/slurm.conf
	PlugstackDir string   // default /etc/slurm
	Configless   string   // default /run/slurm/conf
	Swaps        string   // default /proc/swaps
	CorePattern  string   // default /proc/sys/kernel/core_pattern
	CommandLine  string   // default /proc/cmdline
	Proc         string   // default /proc: where slurmd is looked for
	UdevRules    []string // default udevRules: directories, those that count more first
	Class        string   // what the policy says: "dedicated" or "on-demand"
	// Kernel lists what the kernel can't do; a test has another.
	Kernel func() []string
}

// PluginFile is the base name of Cloister's plugin in plugstack.conf, WorkFile
// that of the library which the plugin loads from its own directory.
const (
	PluginFile = "cloister.so"
	WorkFile   = "cloister-secure.so"
)

// sizeLimit bounds each file read, in bytes.
const sizeLimit = 1 << 20

// Check returns one sentence for each thing that is wrong, none if the node
// may serve.
func (n Node) Check() []string {
	wrong := n.slurmConf()
	for _, check := range []func() error{n.configless, n.plugstack, n.swap, n.corePattern, n.hibernation, n.forgetfulKernel, n.udevRule} {
		if err := check(); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	wrong = append(wrong, n.slurmd()...)
	kernel := n.Kernel
	if kernel == nil {
		kernel = missingFromKernel
	}
	return append(wrong, kernel()...)
}

func or(path, usual string) string {
	if path == "" {
		return usual
	}
	return path
}

// readLines returns the file's lines without comments.
func readLines(path string) ([]string, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, sizeLimit+1))
	if err != nil {
		return nil, err
	}
	if len(b) > sizeLimit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, sizeLimit)
	}
	return b, nil
}
