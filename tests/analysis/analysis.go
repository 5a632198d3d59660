// Package analysis builds what the demo and the tests compute with: a real
// analysis of a real medical data set in a signed image, and a tiny signed
// image for quick tests.
//
// Images, and the throwaway key that signs them, are kept in a cache outside
// the repository and are made anew when what they are built from changes.
// Building the analysis image needs root and the Debian packages in
// packages.txt; it does not ask for anything newer once it is cached. Nothing
// here is for production: the private signing key lies unencrypted in the
// cache.
package analysis

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed build.sh
var buildScript []byte

//go:embed run.sh
var runScript []byte

//go:embed analysis.R
var analysisR []byte

//go:embed dataset.txt
var datasetNote []byte

// Paths are an image in its variants, all with the same content.
type Paths struct {
	SIF      string // signed by the key in Keyring
	Unsigned string // not signed
	Stranger string // signed by a key that is in no keyring
	Keyring  string // armored public key, for a node's policy
}

// Image returns the demo's analysis image: Debian's R with the survival
// package, and the analysis at /opt/analysis/analysis.R. The first call takes
// a minute or two.
func Image(ctx context.Context) (Paths, error) {
	dir, err := rootfs(ctx)
	if err != nil {
		return Paths{}, err
	}
	return variants(ctx, "analysis", filepath.Join(dir, "analysis.squashfs"))
}

// Tiny returns an image that holds only a static busybox.
func Tiny(ctx context.Context) (Paths, error) {
	dir, err := tinyRoot(ctx)
	if err != nil {
		return Paths{}, err
	}
	return variants(ctx, "tiny", filepath.Join(dir, "tiny.squashfs"))
}

// Dataset writes the patients' directory, lung.csv and a README, into dir,
// which it creates.
func Dataset(ctx context.Context, dir string) error {
	built, err := rootfs(ctx)
	if err != nil {
		return err
	}
	table, err := os.ReadFile(filepath.Join(built, "lung.csv"))
	if err != nil {
		return fmt.Errorf("reading the data set: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the patients' directory: %w", err)
	}
	for name, b := range map[string][]byte{"lung.csv": table, "README": datasetNote} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return fmt.Errorf("writing the data set: %w", err)
		}
	}
	return nil
}

// Run runs the image's analysis in the open on this machine, as nobody, with
// the image read-only, data in place of /data and no network, and copies what
// it left in /results to results, which it creates. It needs root. It fails
// if the analysis leaves anything elsewhere.
func Run(ctx context.Context, data, results string) error {
	built, err := rootfs(ctx)
	if err != nil {
		return err
	}
	data, err = filepath.Abs(data)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "cloister-run-")
	if err != nil {
		return fmt.Errorf("making a directory to run in: %w", err)
	}
	defer os.RemoveAll(work)
	if err := script(ctx, work, runScript, filepath.Join(built, "analysis.squashfs"), data, work); err != nil {
		return fmt.Errorf("running the analysis: %w", err)
	}
	if err := os.CopyFS(results, os.DirFS(filepath.Join(work, "results"))); err != nil {
		return fmt.Errorf("keeping the results: %w", err)
	}
	return nil
}

// rootfs returns the cache directory with analysis.squashfs and lung.csv.
func rootfs(ctx context.Context) (string, error) {
	return cached(ctx, "analysis-root-"+inputs(buildScript, analysisR), func(dir string) error {
		if os.Geteuid() != 0 {
			return errors.New("building the analysis image needs root: it installs Debian packages into a directory")
		}
		if err := os.WriteFile(filepath.Join(dir, "analysis.R"), analysisR, 0o644); err != nil {
			return err
		}
		if err := script(ctx, dir, buildScript, dir); err != nil {
			return fmt.Errorf("building the analysis image: %w", err)
		}
		for _, name := range []string{"full", "root", "analysis.R", "script.sh"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// inputs is a short name for the bytes that something is built from.
func inputs(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// script runs a bash script, written to dir for the time, in a process group
// of its own that ends with ctx. The error holds the end of what it said.
func script(ctx context.Context, dir string, text []byte, args ...string) error {
	path := filepath.Join(dir, "script.sh")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		return err
	}
	return run(ctx, "bash", append([]string{path}, args...)...)
}

func run(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// mmdebstrap unmounts what it mounted when it is asked to end.
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }
	c.WaitDelay = 20 * time.Second
	out, err := c.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: %w: %s", name, err, strings.Join(lines[max(0, len(lines)-12):], "; "))
	}
	return nil
}
