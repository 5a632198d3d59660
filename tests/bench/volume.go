package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// memory is a tmpfs on any Linux with glibc (shm_open(3)).
const memory = "/dev/shm"

// A way is one tool's times for one set of files: seconds of each run, in its
// order, and the largest resident sets, in bytes, where they can be seen.
type way struct {
	tool            tool
	there, back     []float64
	peakIn, peakOut int64
}

// volumeTimes are the ways that one set of files went.
type volumeTimes struct {
	set   fileSet
	ways  []*way
	floor int64
}

// measureVolumes puts each set of files into a volume and takes it out again,
// with Cloister and with others by turns, all of it in memory.
func measureVolumes(ctx context.Context, bin string) (all []volumeTimes, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(memory, &fs); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", memory, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return nil, fmt.Errorf("%s is no tmpfs: the volumes' speed would be the disk's", memory)
	}
	// The files, a volume of them, and what comes out of it.
	if free, need := int64(fs.Bavail)*fs.Bsize, 3*largeFiles.bytes()*11/10; free < need {
		return nil, fmt.Errorf("%s has %d MiB free, the volumes need %d", memory, free>>20, need>>20)
	}
	dir, err := os.MkdirTemp(memory, "cloister-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		exec.Command("fusermount", "-u", "-z", "-q", filepath.Join(dir, mountPoint)).Run() // after a failure only
		os.RemoveAll(dir)
	}()
	r := rounds{dir: dir, bin: bin}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	for _, set := range []fileSet{largeFiles, smallFiles} {
		v, err := r.measure(ctx, set)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// rounds runs the tools in a directory of its own.
type rounds struct{ dir, bin string }

func (r rounds) measure(ctx context.Context, set fileSet) (v volumeTimes, err error) {
	v.set = set
	if err := set.fill(filepath.Join(r.dir, "from")); err != nil {
		return v, err
	}
	defer os.RemoveAll(filepath.Join(r.dir, "from"))
	for _, t := range tools {
		if set == largeFiles || !t.largeOnly {
			v.ways = append(v.ways, &way{tool: t})
		}
	}
	// The first round warms up and is not counted.
	for round := range 1 + volumeRuns {
		for _, w := range v.ways {
			if err := r.goThereAndBack(ctx, w, set.bytes(), round > 0); err != nil {
				return v, err
			}
		}
	}
	v.floor, err = highWater()
	return v, err
}

// goThereAndBack runs one tool once, and looks at what comes out if the run
// does not count.
func (r rounds) goThereAndBack(ctx context.Context, w *way, size int64, counts bool) error {
	if _, _, err := r.timed(ctx, w.tool.setUp); err != nil {
		return err
	}
	if err := r.touch(size); err != nil {
		return err
	}
	there, peakIn, err := r.timed(ctx, w.tool.in)
	if err != nil {
		return err
	}
	if _, _, err := r.timed(ctx, w.tool.between); err != nil {
		return err
	}
	if w.tool.out != "" {
		if err := r.touch(size); err != nil {
			return err
		}
	}
	back, peakOut, err := r.timed(ctx, w.tool.out)
	if err != nil {
		return err
	}
	if !counts {
		if _, _, err := r.timed(ctx, w.tool.compare); err != nil {
			return fmt.Errorf("what came out with %s is not what went in: %w", w.tool.name, err)
		}
	} else {
		w.there, w.back = append(w.there, there), append(w.back, back)
		w.peakIn, w.peakOut = max(w.peakIn, peakIn), max(w.peakOut, peakOut)
	}
	for _, name := range leftovers {
		if err := os.RemoveAll(filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// touch fills as much memory as a tool will and frees it. A virtual machine's
// host takes free pages back, and giving them again takes longer than all that
// is timed here: whoever came first would pay for it.
func (r rounds) touch(size int64) error {
	f, err := os.CreateTemp(r.dir, "touch-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	zeros := make([]byte, 1<<20)
	for size = size * 11 / 10; size > 0; size -= int64(len(zeros)) {
		if _, err := f.Write(zeros); err != nil {
			return err
		}
	}
	return nil
}

// timed runs a line of shell and returns its seconds and the largest resident
// set of the processes that it waited for, in bytes. An empty line takes none.
func (r rounds) timed(ctx context.Context, line string) (seconds float64, peak int64, err error) {
	if line == "" {
		return 0, 0, nil
	}
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", line)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + r.bin + ":" + r.dir + ":" + os.Getenv("PATH"), "HOME=" + r.dir, "CLOISTER_HOME=" + filepath.Join(r.dir, "home")}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	began := time.Now()
	err = cmd.Run()
	seconds = time.Since(began).Seconds()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w: %s", line, err, bytes.TrimSpace(errs.Bytes()))
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return seconds, usage.Maxrss << 10, nil // KiB, by getrusage(2)
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

func (v volumeTimes) print() {
	mib := float64(v.set.bytes()) / (1 << 20)
	fmt.Printf("\nVolumes: %s in memory, medians of %d, by turns           (budget for large files ≤ 2 × cp -r, ≤ 64 MB)\n", v.set.name, volumeRuns)
	cp := median(v.ways[0].there)
	row := func(w *way, direction string, seconds []float64, peak int64) {
		m := median(seconds)
		line := fmt.Sprintf("  %-36s %6.2f s  (%s) %6.0f MiB/s  %5.2f × cp -r", strings.TrimSpace(w.tool.name+" "+direction), m, spread(seconds), mib/m, m/cp)
		if w.tool.showPeak {
			line += fmt.Sprintf("   peak %s", v.peak(peak))
		}
		fmt.Println(line)
	}
	for _, w := range v.ways {
		row(w, w.tool.inName, w.there, w.peakIn)
		if w.tool.out != "" {
			row(w, w.tool.outName, w.back, w.peakOut)
		}
	}
}

func (v volumeTimes) peak(bytes int64) string {
	if bytes <= v.floor {
		return fmt.Sprintf("≤ %.0f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.0f MB", float64(bytes)/1e6)
}
