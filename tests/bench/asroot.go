package main

import (
	"context"
	_ "embed"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// asRoot is run on the node as it is.
//
//go:embed asroot.sh
var asRoot string

// asRootSets are small: software emulation takes some twenty times as long.
var asRootSets = []struct {
	name                string
	files, bytes, small int
}{
	{"8 files of 8 MiB", 8, 8 << 20, 0},
	{"2000 files of 4 KiB", 0, 0, 2000},
}

// measureAsRoot has the client and root's own tools make a volume on the node
// and take it apart again.
func (b *bench) measureAsRoot(ctx context.Context) error {
	bin, err := deploy.Build(ctx, deploy.Release)
	if err != nil {
		return err
	}
	const client, path = "/usr/local/bin/bench-cloister", "/root/asroot.sh"
	if err := b.Put(ctx, node, filepath.Join(bin, "cloister"), client, 0o755); err != nil {
		return err
	}
	if _, err := b.Output(ctx, node, "cat > "+path, cluster.Stdin([]byte(asRoot))); err != nil {
		return err
	}
	for _, set := range asRootSets {
		out, err := b.Output(ctx, node, fmt.Sprintf("bash %s %s %d %d %d %d", path, client, volumeRuns, set.files, set.bytes, set.small), cluster.Timeout(10*time.Minute))
		if err != nil {
			return err
		}
		took := map[string][]float64{}
		for line := range strings.Lines(out) {
			i := strings.LastIndexByte(line, ' ')
			s, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
			if err != nil {
				return fmt.Errorf("reading what the node took: %q: %w", line, err)
			}
			took[line[:i]] = append(took[line[:i]], s)
		}
		fmt.Printf("\nVolumes on the node, as root: %s in its memory, medians of %d, by turns   (no budget)\n", set.name, volumeRuns)
		for _, r := range []struct{ key, name, beside string }{
			{"copy in", "cp -r", ""},
			{"cloister in", "cloister volume create", "root in"}, {"root in", "luksFormat, mkfs.ext4, cp -r", ""},
			{"cloister out", "cloister volume extract", "root out"}, {"root out", "cryptsetup open, mount, cp -r", ""},
		} {
			if len(took[r.key]) != volumeRuns {
				return fmt.Errorf("the node timed %q %d times, not %d: %q", r.key, len(took[r.key]), volumeRuns, out)
			}
			line := fmt.Sprintf("  %-32s %6.2f s  (%s)", r.name, median(took[r.key]), spread(took[r.key]))
			if r.beside != "" {
				line += fmt.Sprintf("   %.2f × as root", median(took[r.key])/median(took[r.beside]))
			}
			fmt.Println(line)
		}
	}
	return nil
}
