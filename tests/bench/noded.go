package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// watched is how long noded's idle processor time is counted, in seconds, and
// settles how long after the last session noded may still start helpers for the
// next one (package helper: 15 s), which is a session's work and no idling.
const watched, settles = 10, 20

// A use is what noded takes on its node.
type use struct {
	resident, peak int64   // bytes, of the process
	cgroup         int64   // bytes, of the unit: page cache and helpers too
	anonymous      int64   // bytes, of the unit, without page cache
	processor      float64 // percent of one core, idle
	threads        int64
}

// nodedUse looks at an idle noded.
func (b *bench) nodedUse(ctx context.Context) (use, error) {
	out, err := b.Output(ctx, node, fmt.Sprintf(`set -e
pid=$(systemctl show -P MainPID cloister-noded)
cg=/sys/fs/cgroup$(systemctl show -P ControlGroup cloister-noded)
busy() { awk '$1 == "usage_usec" { print "usage", $2 }' "$cg/cpu.stat"; }
sleep %d
busy
sleep %d
busy
awk '$1 == "VmRSS:" || $1 == "VmHWM:" || $1 == "Threads:" { print $1, $2 }' "/proc/$pid/status"
echo "cgroup $(cat "$cg/memory.current")"
awk '$1 == "anon" { print "anon", $2 }' "$cg/memory.stat"`, settles, watched))
	if err != nil {
		return use{}, err
	}
	var u use
	var usage []int64
	seen := 0
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return use{}, fmt.Errorf("reading what noded takes: %q: %w", line, err)
		}
		seen++
		switch name {
		case "usage":
			usage = append(usage, n)
		case "VmRSS:":
			u.resident = n << 10
		case "VmHWM:":
			u.peak = n << 10
		case "Threads:":
			u.threads = n
		case "cgroup":
			u.cgroup = n
		case "anon":
			u.anonymous = n
		}
	}
	if seen != 7 || len(usage) != 2 {
		return use{}, fmt.Errorf("reading what noded takes: %q", out)
	}
	u.processor = float64(usage[1]-usage[0]) / (watched * 1e6) * 100
	return u, nil
}

func printNoded(idle, after use, sessions int) {
	fmt.Printf("\nnoded                       resident   peak  unit, with page cache  without  processor over %d s  threads   (budget ≤ 30 MB, 0 %%)\n", watched)
	for _, r := range []struct {
		name string
		use
	}{{"idle, before any session", idle}, {fmt.Sprintf("idle, after %d sessions", sessions), after}} {
		fmt.Printf("  %-25s %5.1f MB  %5.1f  %18.1f MB  %7.1f  %17.2f %%  %7d\n", r.name,
			float64(r.resident)/1e6, float64(r.peak)/1e6, float64(r.cgroup)/1e6, float64(r.anonymous)/1e6, r.processor, r.threads)
	}
}
