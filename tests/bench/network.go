package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"cloister/noded/lockdown"
	"cloister/policy"
)

// networkRuns is odd, so that the median was measured.
const networkRuns = 101

// settle is what the kernel gets to free the rules of before: a transaction
// that follows at once waits for that.
const settle = 30 * time.Millisecond

// siteLock is the lock of a site with two of everything and 64 nodes, which is
// what a job may span.
func siteLock() lockdown.Lock {
	hosts := func(from, n byte) (out []netip.Addr) {
		for i := range n {
			out = append(out, netip.AddrFrom4([4]byte{10, 9, 0, from + i}))
		}
		return out
	}
	return lockdown.Lock{
		Controllers: hosts(1, 2), Clients: hosts(3, 2), Peers: hosts(100, 64), FileServers: hosts(5, 2),
		KMS:           []netip.AddrPort{netip.MustParseAddrPort("10.9.0.7:8200"), netip.MustParseAddrPort("10.9.0.8:8200")},
		DNS:           hosts(9, 2),
		NTP:           hosts(9, 2),
		SlurmctldPort: 6817, SlurmdPort: 6818, NFSPort: 2049,
		SrunPorts: policy.PortRange{First: 60001, Last: 63000},
	}
}

// measureNetwork times the lock of this network namespace and its release
// against nft's with the same rules, by turns.
func measureNetwork(ctx context.Context) error {
	var filter lockdown.Filter
	lock := siteLock()
	if err := filter.Apply(ctx, lock); err != nil {
		return err
	}
	listed, err := exec.CommandContext(ctx, "nft", "list", "table", "inet", lockdown.TableName).Output()
	if err != nil {
		return fmt.Errorf("nft list: %w", err)
	}
	if err := filter.Release(ctx); err != nil {
		return err
	}
	rules := strings.Replace(string(listed), "table inet "+lockdown.TableName, "table inet byhand", 1)
	nft := func(stdin string, args ...string) error {
		cmd := exec.CommandContext(ctx, "nft", args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	steps := []struct {
		name string
		do   func() error
		took []float64
	}{
		{name: "lock", do: func() error { return filter.Apply(ctx, lock) }},
		{name: "release", do: func() error { return filter.Release(ctx) }},
		{name: "nft -f", do: func() error { return nft(rules, "-f", "-") }},
		{name: "nft delete table", do: func() error { return nft("", "delete", "table", "inet", "byhand") }},
	}
	// The first round warms up and is not counted.
	for round := range 1 + networkRuns {
		order := []int{0, 1, 2, 3}
		if rand.IntN(2) == 0 {
			order = []int{2, 3, 0, 1}
		}
		for _, i := range order {
			time.Sleep(settle)
			began := time.Now()
			if err := steps[i].do(); err != nil {
				return err
			}
			if round > 0 {
				steps[i].took = append(steps[i].took, time.Since(began).Seconds())
			}
		}
	}
	fmt.Printf("\nLock and release of the network, natively: a table of %d lines, medians of %d, by turns\n", strings.Count(rules, "\n"), networkRuns)
	for _, s := range steps {
		fmt.Printf("  %-20s %7.2f ms  (%s)\n", s.name, 1e3*median(s.took), milliseconds(s.took))
	}
	fmt.Printf("  nft / Cloister: %.1f × to lock, %.1f × to release (no budget)\n",
		median(steps[2].took)/median(steps[0].took), median(steps[3].took)/median(steps[1].took))
	return nil
}

// milliseconds prints the smallest and the largest of seconds.
func milliseconds(seconds []float64) string {
	return spread(column(seconds, func(s float64) float64 { return 1e3 * s }))
}
