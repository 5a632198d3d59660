package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed all:guest
var guest embed.FS

//go:embed packages.txt
var hostPackages string

func touch(path string) {
	now := time.Now()
	os.Chtimes(path, now, now) // only orders the pruning
}

// image returns the guests' disk, kernel and initrd, and makes them if the scripts in guest/ changed.
func image(ctx context.Context) (*entry, error) {
	key, err := embeddedHash()
	if err != nil {
		return nil, err
	}
	return cached(ctx, "image", key, buildImage)
}

// SlurmHeaders returns the include directory that holds slurm/spank.h of the guests' Slurm. The headers
// come with the image, which is made if need be.
func SlurmHeaders(ctx context.Context) (includeDir string, err error) {
	img, err := image(ctx)
	if err != nil {
		return "", err
	}
	img.release() // the newest image is never pruned
	return img.file("include"), nil
}

// BuildImage makes the guests' image unless the cache has it, and returns its directory.
func BuildImage(ctx context.Context) (dir string, err error) {
	img, err := image(ctx)
	if err != nil {
		return "", err
	}
	img.release()
	return img.dir, nil
}

func buildImage(ctx context.Context, dir string) error {
	if err := needPrograms("mmdebstrap", "mke2fs", "cpio", "xz", "ssh-keygen"); err != nil {
		return err
	}
	scripts, err := os.MkdirTemp("", "cloister-image-")
	if err != nil {
		return fmt.Errorf("unpack the image scripts: %w", err)
	}
	defer os.RemoveAll(scripts)
	if err := os.CopyFS(scripts, guest); err != nil {
		return fmt.Errorf("unpack the image scripts: %w", err)
	}
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(scripts, "guest", "image.sh"))
	cmd.Env = append(os.Environ(), "OUT="+dir, "LC_ALL=C.UTF-8")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the guest image: %w\n%s", err, tail(out.String(), 40))
	}
	return nil
}

// needPrograms names at once everything that is missing and the line that installs it.
func needPrograms(names ...string) error {
	var missing []string
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("not installed: %s; run: apt-get install --no-install-recommends %s",
		strings.Join(missing, ", "), strings.Join(strings.Fields(hostPackages), " "))
}

func embeddedHash() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(guest, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := guest.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hash the image scripts: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
