package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The directory that becomes a volume: large files, in all 512 MiB, of bytes
// that do not compress.
const (
	volumeFiles    = 16
	volumeFileSize = 32 << 20 // bytes
	volumeMiB      = volumeFiles * volumeFileSize >> 20
)

// memory is a tmpfs on any Linux with glibc (shm_open(3)).
const memory = "/dev/shm"

// volumeTimes are seconds of each run, in its order, and the largest resident
// sets, in bytes.
type volumeTimes struct {
	copied, created, extracted []float64
	createPeak, extractPeak    int64
	floor                      int64
}

// measureVolumes times cp -r, volume create and volume extract by turns, all
// of it in memory.
func measureVolumes(ctx context.Context, bin string) (v volumeTimes, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(memory, &fs); err != nil {
		return v, fmt.Errorf("looking at %s: %w", memory, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return v, fmt.Errorf("%s is no tmpfs: the volumes' speed would be the disk's", memory)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < 4*volumeMiB<<20 {
		return v, fmt.Errorf("%s has %d MiB free, the volumes need %d", memory, free>>20, 4*volumeMiB)
	}
	dir, err := os.MkdirTemp(memory, "cloister-bench-")
	if err != nil {
		return v, err
	}
	defer os.RemoveAll(dir)
	if err := fill(filepath.Join(dir, "from")); err != nil {
		return v, err
	}
	tool := filepath.Join(bin, "cloister")
	// The first round warms up and is not counted.
	for round := range 1 + volumeRuns {
		cp, _, err := timed(ctx, dir, "cp", "-r", "from", "copy")
		if err != nil {
			return v, err
		}
		create, createPeak, err := timed(ctx, dir, tool, "volume", "create", "v.luks", "--from", "from")
		if err != nil {
			return v, err
		}
		extract, extractPeak, err := timed(ctx, dir, tool, "volume", "extract", "v.luks", "--to", "to")
		if err != nil {
			return v, err
		}
		if round == 0 {
			if out, err := exec.CommandContext(ctx, "diff", "-r", filepath.Join(dir, "from"), filepath.Join(dir, "to")).CombinedOutput(); err != nil {
				return v, fmt.Errorf("what came out of the volume is not what went in: %w: %s", err, out)
			}
		} else {
			v.copied, v.created, v.extracted = append(v.copied, cp), append(v.created, create), append(v.extracted, extract)
			v.createPeak, v.extractPeak = max(v.createPeak, createPeak), max(v.extractPeak, extractPeak)
		}
		for _, name := range []string{"copy", "v.luks", "to"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return v, err
			}
		}
	}
	v.floor, err = highWater()
	return v, err
}

// highWater is this program's own peak, in bytes. A program that it starts
// inherits that in its resource usage (fork shares the memory until exec), so
// nothing below it can be seen.
func highWater() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("asking for this program's memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("asking for this program's memory: no VmHWM in /proc/self/status")
}

func fill(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// What the files hold is no secret: any stream that is not all zeros does.
	stream := rand.NewChaCha8([32]byte{1})
	for i := range volumeFiles {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("scan-%02d.dcm", i)))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, stream, volumeFileSize)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// timed runs a program in dir and returns its seconds and the largest resident
// set that it had, in bytes.
func timed(ctx context.Context, dir, name string, args ...string) (seconds float64, peak int64, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "CLOISTER_HOME=" + filepath.Join(dir, "home")}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	began := time.Now()
	err = cmd.Run()
	seconds = time.Since(began).Seconds()
	if err != nil {
		return 0, 0, fmt.Errorf("%s %q: %w: %s", filepath.Base(name), args, err, bytes.TrimSpace(errs.Bytes()))
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return seconds, usage.Maxrss << 10, nil // KiB, by getrusage(2)
}

func (v volumeTimes) print() {
	fmt.Printf("\nVolumes: %d files of %d MiB in memory, medians of %d, by turns           (budget ≤ 2 × cp -r, ≤ 64 MB)\n", volumeFiles, volumeFileSize>>20, volumeRuns)
	cp := median(v.copied)
	row := func(name string, seconds []float64, peak int64) {
		m := median(seconds)
		line := fmt.Sprintf("  %-44s %6.2f s  (%s) %6.0f MiB/s", name, m, spread(seconds), volumeMiB/m)
		if peak > 0 {
			line += fmt.Sprintf("   %.1f × cp -r   peak %s", m/cp, v.peak(peak))
		}
		fmt.Println(line)
	}
	row("cp -r", v.copied, 0)
	row("cloister volume create (encrypt, hash tree)", v.created, v.createPeak)
	row("cloister volume extract (verify, decrypt)", v.extracted, v.extractPeak)
}

func (v volumeTimes) peak(bytes int64) string {
	if bytes <= v.floor {
		return fmt.Sprintf("≤ %.0f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.0f MB", float64(bytes)/1e6)
}
