package nodecheck

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Slurm 25.05 took GetEnvTimeout away (its read_config.c has it as defunct):
// there nothing keeps slurmd from running a user's login shell. 24.11 is the
// oldest that the tests run.
const (
	oldestRelease = 24*100 + 11
	firstWithout  = 25*100 + 5
)

// release refuses a slurmd whose release the defences are not for.
func (n Node) release(dir string) error {
	if n.Proc != "" {
		return nil
	}
	text, err := versions.of(dir + "/exe")
	if err != nil {
		return err
	}
	return checkRelease(text)
}

// checkRelease reads what slurmd -V prints, "slurm 24.11.5" or
// "slurm-wlm 24.11.5".
func checkRelease(text string) error {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return fmt.Errorf("slurmd -V prints nothing: its release is not known")
	}
	parts := strings.SplitN(fields[len(fields)-1], ".", 3)
	number := 0
	for _, p := range append(parts, "", "")[:2] {
		x, err := strconv.Atoi(p)
		if err != nil || x < 0 || x > 99 {
			return fmt.Errorf("slurmd -V prints %q: its release is not known", text)
		}
		number = number*100 + x
	}
	switch {
	case number < oldestRelease:
		return fmt.Errorf("slurmd is of %q: a secure node needs 24.11", text)
	case number >= firstWithout:
		return fmt.Errorf("slurmd is of %q, which knows no GetEnvTimeout: sbatch --get-user-env would run the user's profile outside the session; a secure node needs 24.11", text)
	}
	return nil
}

// versions are what programs print for -V, by their file's identity.
var versions = versionCache{known: map[string]string{}}

type versionCache struct {
	mu    sync.Mutex
	known map[string]string
}

// versionLimit bounds slurmd -V, which reads no file.
const versionLimit = 20 * time.Second

func (v *versionCache) of(link string) (string, error) {
	info, err := os.Stat(link)
	if err != nil {
		return "", err
	}
	path, err := os.Readlink(link)
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf("%s %d %s", path, info.Size(), info.ModTime())
	v.mu.Lock()
	defer v.mu.Unlock()
	if text, ok := v.known[key]; ok {
		return text, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, link, "-V")
	cmd.Args[0] = filepath.Base(path)
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking slurmd for its release: %w", err)
	}
	v.known[key] = strings.TrimSpace(string(out))
	return v.known[key], nil
}
