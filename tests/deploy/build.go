// Package deploy puts Cloister on a test cluster, step by step as
// docs/admin.md tells an administrator, and gives the tests researchers with
// laptops.
package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"cloister/tests/cluster"
)

// A Flavour is what is built.
type Flavour string

// The flavours: what users get, and the one whose defences can be taken out.
const (
	Release Flavour = "build"
	Mutants Flavour = "build-mutants"
)

// artifacts are the files that a build makes, relative to its directory.
var artifacts = []string{"cloister", "cloister-noded", "cloister-kms", "cloister.so", "cloister-secure.so"}

// root is the repository, found from the test's or the command's own place.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("finding the repository: no go.mod above the working directory")
		}
	}
}

// built is what this process has made already: tests that run side by side must
// not write the same files.
var built = struct {
	sync.Mutex
	in map[Flavour]string
}{in: map[Flavour]string{}}

// Build makes the binaries and the plugin with make, as a packager would, and
// returns the directory that holds them. It does so once in a process.
func Build(ctx context.Context, f Flavour) (dir string, err error) {
	built.Lock()
	defer built.Unlock()
	if dir, ok := built.in[f]; ok {
		return dir, nil
	}
	if dir, err = build(ctx, f); err == nil {
		built.in[f] = dir
	}
	return dir, err
}

func build(ctx context.Context, f Flavour) (dir string, err error) {
	top, err := root()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(top, "bin")
	if f != Release {
		dir = filepath.Join(top, "bin", "mutants")
	}
	headers, err := cluster.SlurmHeaders(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "make", "-s", "-C", top, string(f), "BIN="+dir, "SLURM_HEADERS="+headers)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("make %s: %w", f, err)
	}
	return dir, nil
}

// fingerprint changes whenever anything that Install installs does.
func fingerprint(files ...string) (string, error) {
	h := sha256.New()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("hashing what is installed: %w", err)
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", fmt.Errorf("hashing what is installed: %w", err)
		}
		fmt.Fprintf(h, "\x00%s\x00", filepath.Base(name))
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}
