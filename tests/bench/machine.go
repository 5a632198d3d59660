package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// printHost says on what the numbers were taken.
func printHost() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("asking for the kernel's name: %w", err)
	}
	model, err := processor()
	if err != nil {
		return err
	}
	fmt.Printf("host   %d cores, %s, kernel %s, %s, load average at the start %s\n",
		runtime.NumCPU(), model, unix.ByteSliceToString(u.Release[:]), runtime.Version(), load())
	return nil
}

func processor() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("asking for the processor: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return "processor of unknown model", nil
}

// load is the host's load average over one minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// printGuest says what the node is: systemd knows KVM ("kvm") from software
// emulation ("qemu").
func (b *bench) printGuest(ctx context.Context) error {
	out, err := b.Output(ctx, node, "systemd-detect-virt --vm; uname -r; nproc; slurmd -V; cryptsetup --version | cut -d' ' -f1,2")
	if err != nil {
		return err
	}
	f := strings.Split(strings.TrimSpace(out), "\n")
	if len(f) != 5 {
		return fmt.Errorf("asking node %s what it is: %q", node, out)
	}
	how := "software emulation (every program's start costs 100 ms and more; only ratios mean anything)"
	if f[0] == "kvm" {
		how = "KVM"
	}
	fmt.Printf("\nguest  node %s, %s core, kernel %s, %s, %s, %s\n", node, f[2], f[1], f[3], f[4], how)
	return nil
}

func median[T cmp.Ordered](values []T) T {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}

// spread prints the smallest and the largest.
func spread(values []float64) string {
	return fmt.Sprintf("%.2f–%.2f", slices.Min(values), slices.Max(values))
}
