package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// stepdRuns is odd, so that medians were measured.
const stepdRuns = 7

// A stepd is the slurmstepd of a running step. Sizes are KiB, as in proc(5).
type stepd struct {
	threads, resident, anonymous, proportional float64
	// Of it, what is mapped from the plugin.
	mapped, pluginResident, pluginProportional float64
}

type stepds [2][]stepd

// stepds looks at slurmstepd while its task runs, with and without the plugin
// by turns. It also proves that load does what it says.
func (s *slurm) stepds(ctx context.Context) (all stepds, err error) {
	for range stepdRuns {
		for _, side := range []int{with, without} {
			if err := s.load(side == with); err != nil {
				return all, err
			}
			d, err := s.stepd(ctx)
			if err != nil {
				return all, err
			}
			if loaded := d.mapped > 0; loaded != (side == with) {
				return all, fmt.Errorf("slurmstepd has the plugin: %t, plugstack.conf names it: %t", loaded, side == with)
			}
			all[side] = append(all[side], d)
		}
	}
	return all, nil
}

func (s *slurm) stepd(ctx context.Context) (d stepd, err error) {
	ended := make(chan error, 1)
	go func() {
		// As long as it takes to look.
		_, err := s.user(ctx, "srun", "sleep", "0.7")
		ended <- err
	}()
	pid, err := stepdOf(ctx, "sleep")
	if err == nil {
		// It has started its task; let it come to rest.
		time.Sleep(200 * time.Millisecond)
		d, err = readStepd(pid)
	}
	err = errors.Join(err, <-ended)
	if err != nil {
		return d, err
	}
	_, err = s.spool.step(ctx)
	return d, err
}

// stepdOf waits for a process of this name and returns its parent, a
// slurmstepd. Only this namespace's processes are in /proc.
func stepdOf(ctx context.Context, name string) (pid string, err error) {
	for deadline := time.Now().Add(stepWait); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			return "", err
		}
		for _, path := range stats {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // it has ended
			}
			// PID (NAME) STATE PPID …, proc_pid_stat(5).
			if head, tail, ok := strings.Cut(string(b), ") "); ok && strings.HasSuffix(head, "("+name) {
				parent := strings.Fields(tail)[1]
				if comm, err := os.ReadFile("/proc/" + parent + "/comm"); err == nil && string(comm) == "slurmstepd\n" {
					return parent, nil
				}
			}
		}
	}
	return "", fmt.Errorf("no step with a process %s", name)
}

func readStepd(pid string) (d stepd, err error) {
	if err := readFields("/proc/"+pid+"/status", "", map[string]*float64{
		"Threads:": &d.threads, "VmRSS:": &d.resident, "RssAnon:": &d.anonymous,
	}); err != nil {
		return d, err
	}
	if err := readFields("/proc/"+pid+"/smaps", "", map[string]*float64{"Pss:": &d.proportional}); err != nil {
		return d, err
	}
	return d, readFields("/proc/"+pid+"/smaps", "/cloister.so", map[string]*float64{
		"Size:": &d.mapped, "Rss:": &d.pluginResident, "Pss:": &d.pluginProportional,
	})
}

// readFields adds up the values of the named lines, in smaps only of mappings
// of files whose names end in file.
func readFields(path, file string, into map[string]*float64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	inside := file == ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if file != "" && !strings.HasSuffix(fields[0], ":") { // a mapping's first line
			inside = strings.HasSuffix(lines.Text(), file)
		}
		if sum, ok := into[fields[0]]; ok && inside {
			var v float64
			if _, err := fmt.Sscan(fields[1], &v); err != nil {
				return fmt.Errorf("reading %s: %w", path, err)
			}
			*sum += v
		}
	}
	return lines.Err()
}

func (all stepds) print() {
	fmt.Printf("  slurmstepd of a running step, medians of %d, by turns        without      with   added\n", stepdRuns)
	row := func(name, unit string, of func(stepd) float64, budget string) {
		a, b := median(column(all[with], of)), median(column(all[without], of))
		fmt.Printf("    %-52s %9.0f %9.0f %+7.0f %s%s\n", name, b, a, a-b, unit, budget)
	}
	row("threads", "", func(d stepd) float64 { return d.threads }, "(budget 0)")
	row("resident (VmRSS)", "KiB", func(d stepd) float64 { return d.resident }, "  (budget ≤ 300 kB)")
	row("of it anonymous (RssAnon)", "KiB", func(d stepd) float64 { return d.anonymous }, "")
	row("proportional (Pss)", "KiB", func(d stepd) float64 { return d.proportional }, "")
	row("mappings of cloister.so, resident", "KiB", func(d stepd) float64 { return d.pluginResident }, "")
	row("mappings of cloister.so, proportional", "KiB", func(d stepd) float64 { return d.pluginProportional }, "")
}

// version is Slurm's and Debian's.
func version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "slurm ${Version}", "slurmd").Output()
	if err != nil {
		return "slurm of unknown version"
	}
	return string(out)
}
