// Package nodecheck looks whether a node is what a secure node must be, and
// says exactly what is wrong. It changes nothing.
package nodecheck

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"cloister/mutant"
)

// A Node is where the facts are read; the zero value of a field means the
// usual place.
type Node struct {
	SlurmConf    string // default /etc/slurm/slurm.conf
	PlugstackDir string // default /etc/slurm
	Swaps        string // default /proc/swaps
	CorePattern  string // default /proc/sys/kernel/core_pattern
	Class        string // what the policy says: "dedicated" or "on-demand"
}

// PluginFile is the base name of Cloister's plugin in plugstack.conf.
const PluginFile = "cloister.so"

// sizeLimit bounds each file read, in bytes.
const sizeLimit = 1 << 20

// Check returns one sentence for each thing that is wrong, none if the node
// may serve.
func (n Node) Check() []string {
	var wrong []string
	for _, check := range []func() error{n.slurmConf, n.plugstack, n.swap, n.corePattern} {
		if err := check(); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong
}

func or(path, usual string) string {
	if path == "" {
		return usual
	}
	return path
}

// slurmConf wants a local file (a configless slurmd gets its plugins from the
// controller) with GetEnvTimeout=0: sbatch --get-user-env otherwise makes
// slurmd run the user's login shell before any plugin is asked.
func (n Node) slurmConf() error {
	path := or(n.SlurmConf, "/etc/slurm/slurm.conf")
	lines, err := readLines(path)
	if err != nil {
		return fmt.Errorf("a secure node needs a slurm.conf of its own: %w", err)
	}
	for _, line := range lines {
		for _, field := range strings.Fields(line) {
			name, value, _ := strings.Cut(field, "=")
			if strings.EqualFold(name, "GetEnvTimeout") && value == "0" || mutant.Removed(mutant.GetEnvCheck) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not say GetEnvTimeout=0: sbatch --get-user-env would run the user's profile outside the session", path)
}

// plugstack wants the plugin as required, with the policy's class.
func (n Node) plugstack() error {
	path := or(n.PlugstackDir, "/etc/slurm") + "/plugstack.conf"
	lines, err := readLines(path)
	if err != nil {
		return fmt.Errorf("a secure node needs a plugstack.conf of its own: %w", err)
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasSuffix(fields[1], "/"+PluginFile) && fields[1] != PluginFile {
			continue
		}
		if fields[0] != "required" {
			return fmt.Errorf("%s has the plugin as %q, not required: Slurm would run jobs without it", path, fields[0])
		}
		want := "node=" + n.Class
		for _, arg := range fields[2:] {
			if arg == want {
				return nil
			}
		}
		return fmt.Errorf("%s does not give the plugin %s, which the policy's class demands", path, want)
	}
	return fmt.Errorf("%s does not load %s", path, PluginFile)
}

// swap refuses every swap space: what is written there outlives the session.
func (n Node) swap() error {
	if mutant.Removed(mutant.SwapCheck) {
		return nil
	}
	lines, err := readLines(or(n.Swaps, "/proc/swaps"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return err
	}
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "Filename" {
			return fmt.Errorf("swap is on (%s): memory of a job could reach a disk; swapoff -a", fields[0])
		}
	}
	return nil
}

// corePattern refuses a pipe: the kernel starts the program with the dump on
// its standard input even where RLIMIT_CORE is 0 (core(5)).
func (n Node) corePattern() error {
	if mutant.Removed(mutant.CoreCheck) {
		return nil
	}
	lines, err := readLines(or(n.CorePattern, "/proc/sys/kernel/core_pattern"))
	if err != nil {
		return err
	}
	if len(lines) > 0 && strings.HasPrefix(lines[0], "|") {
		return fmt.Errorf("kernel.core_pattern pipes core dumps to a program: set it to %q", "core")
	}
	return nil
}

// readLines returns the file's lines without comments.
func readLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) > sizeLimit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, len(b), sizeLimit)
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
