package analysis

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// tinyFormat is part of the tiny image's name in the cache: change it with
// what tinyRoot makes.
const tinyFormat = "1"

// tinyRoot returns the cache directory with tiny.squashfs.
func tinyRoot(ctx context.Context) (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("the tiny image needs the package busybox-static: %w", err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return cached(ctx, "tiny-root-"+inputs([]byte(tinyFormat), busybox), func(dir string) error {
		if err := static(path); err != nil {
			return err
		}
		root := filepath.Join(dir, "root")
		for _, d := range []string{"bin", "data", "dev", "etc", "home", "proc", "results", "root", "run", "sys", "tmp", "var/tmp", "mnt", ".singularity.d/env"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		for name, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/hosts": "", "etc/resolv.conf": "", "etc/localtime": ""} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
			return err
		}
		for _, c := range []string{"sh", "true", "false", "cat", "echo", "id", "ls", "sleep", "touch", "env", "mount", "wc"} {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", c)); err != nil {
				return err
			}
		}
		if err := run(ctx, "mksquashfs", root, filepath.Join(dir, "tiny.squashfs"), "-quiet", "-no-progress",
			"-noappend", "-no-xattrs", "-all-root", "-all-time", "0", "-mkfs-time", "0"); err != nil {
			return fmt.Errorf("building the tiny image: %w", err)
		}
		return os.RemoveAll(root)
	})
}

// static refuses a busybox that would need a dynamic loader.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("looking at %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New(path + " is not static: the tiny image needs the package busybox-static")
		}
	}
	return nil
}
