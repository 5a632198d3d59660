package attacks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onPorts are attacks by packets on the dedicated node, which is locked from
// boot on, so that they take no session.
var onPorts = []Attack{
	{Number: 13, Who: "A3 A4", Name: "another compute node, over IPv4 and IPv6, and the login node send to every TCP and UDP port of the locked node", Long: true,
		Defences: defences(mutant.DefaultDrop), Try: scanAll},
	{Number: 38, Who: "A1 A3", Name: "the file server, the KMS and the controller open connections from their well-known ports", Long: true,
		Defences: defences(mutant.RepliesOnly), Try: fromKnownPorts},
}

// A source is who scans: a node, by one of its addresses and a port.
type source struct {
	node, name string // name is for nft, [a-z0-9]
	address    string
	six        bool
	port       int
	last       int // of the ports that it tries, from 1 on
	allowed    []string
}

// match is the packets of the source, in nft(8)'s words.
func (c source) match() string {
	if c.six {
		return "ip6 saddr " + c.address
	}
	return "ip saddr " + c.address
}

// scanTable counts, apart from all that the product does: "arrived" as the
// first thing that happens to a packet, "passed" after the lock, as the last
// thing before a socket is looked for. Each port counts once. Only the first
// ports that pass are named: nft takes minutes to print them all.
func scanTable(sources []source) string {
	var t strings.Builder
	t.WriteString("table inet scan {\n")
	rules := map[string]*strings.Builder{"arrived": {}, "passed": {}}
	for _, c := range sources {
		for _, proto := range []string{"tcp", "udp"} {
			for at, r := range rules {
				name := at + "_" + proto + "_" + c.name
				fmt.Fprintf(&t, "set %s { type inet_service; flags dynamic; size 65536; }\ncounter n_%[1]s { }\n", name)
				filter := proto
				if proto == "tcp" {
					filter = "tcp flags & (syn | ack | rst) == syn tcp"
				}
				fmt.Fprintf(r, "%s %s sport %d %s dport != @%s add @%[5]s { %[2]s dport } counter name n_%[5]s\n", c.match(), proto, c.port, filter, name)
			}
		}
	}
	fmt.Fprintf(&t, "chain arrived { type filter hook prerouting priority -400;\n%s}\n", rules["arrived"])
	fmt.Fprintf(&t, "chain passed { type filter hook input priority 400;\n%s}\n}\n", rules["passed"])
	return t.String()
}

// counts reads the table.
func counts(ctx context.Context, s *deploy.Site) (map[string]int, error) {
	out, err := s.Output(ctx, cluster.S1, "nft list counters table inet scan")
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	name := ""
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 2 && f[0] == "counter":
			name = strings.TrimPrefix(f[1], "n_")
		case len(f) >= 2 && f[0] == "packets":
			if all[name], err = strconv.Atoi(f[1]); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// rounds bounds how often a scan is repeated for the packets that got lost.
const rounds = 4

// scanFrom sends to every port of s1 until all have arrived there, and says
// what passed the lock or answered besides what is allowed.
func scanFrom(ctx context.Context, s *deploy.Site, to, to6 string, sources []source) error {
	mac, err := s.Output(ctx, cluster.S1, "cat /sys/class/net/eth0/address")
	if err != nil {
		return err
	}
	// Adding the table has the packet filter's watch look, too: a mutant that
	// was taken out or put back since then counts from here on.
	if _, err := s.Output(ctx, cluster.S1, "nft delete table inet scan 2>/dev/null; cat > /run/scan.nft && nft -f /run/scan.nft && sleep 1", cluster.Stdin([]byte(scanTable(sources)))); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S1, "nft delete table inet scan")
	before, err := dropped(ctx, s)
	if err != nil {
		return err
	}
	answers := make([]string, len(sources))
	var seen map[string]int
	for range rounds {
		failed := make([]error, len(sources))
		var all sync.WaitGroup
		for i, c := range sources {
			missing := false
			for _, proto := range []string{"tcp", "udp"} {
				missing = missing || seen["arrived_"+proto+"_"+c.name] != c.last
			}
			if !missing {
				continue
			}
			all.Go(func() {
				target := to
				if c.six {
					target = to6
				}
				var out string
				out, failed[i] = s.Output(ctx, c.node, fmt.Sprintf("%s scan -mac %s -from %s -to %s -sport %d -last %d -arp %s,%s",
					probe, strings.TrimSpace(mac), c.address, target, c.port, c.last, cluster.Address(c.node), to))
				answers[i] += out
			})
		}
		all.Wait()
		if err := errors.Join(failed...); err != nil {
			return err
		}
		if seen, err = counts(ctx, s); err != nil {
			return err
		}
	}
	after, err := dropped(ctx, s)
	if err != nil {
		return err
	}
	return verdict(sources, seen, answers, after-before)
}

// verdict compares what arrived, what passed and who answered with what the
// policy allows.
func verdict(sources []source, seen map[string]int, answers []string, drops int) error {
	var arrived, passed, allowed int
	var lost, unwanted []string
	for i, c := range sources {
		allowed += len(c.allowed)
		for _, proto := range []string{"tcp", "udp"} {
			n := seen["arrived_"+proto+"_"+c.name]
			if n != c.last {
				lost = append(lost, fmt.Sprintf("%d of %d %s ports from %s", c.last-n, c.last, proto, c.name))
			}
			arrived += n
			passed += seen["passed_"+proto+"_"+c.name]
		}
		for line := range strings.Lines(answers[i]) {
			line = strings.TrimSpace(line)
			if line != "" && !slices.Contains(c.allowed, line) {
				unwanted = append(unwanted, c.name+" hears "+line)
			}
		}
	}
	switch {
	case passed > allowed:
		return got("%d of %d ports can be reached from outside", passed, arrived)
	case len(unwanted) > 0:
		return got("%s", unwanted[0])
	case passed < allowed:
		return fmt.Errorf("of the %d ports that must be open %d are", allowed, passed)
	case len(lost) > 0:
		return fmt.Errorf("some packets did not arrive even in %d rounds: %s", rounds, strings.Join(lost, ", "))
	case drops < arrived-passed:
		return fmt.Errorf("%d ports were tried, the lock counts %d dropped packets", arrived, drops)
	}
	return nil
}

// dropped reads the lock's own counter of what it dropped on the way in. A
// lock that is made anew counts from 0.
func dropped(ctx context.Context, s *deploy.Site) (int, error) {
	out, err := s.Output(ctx, cluster.S1, `nft list chain inet cloister input | sed -n 's/.*counter packets \([0-9]*\) .*comment "dropped".*/\1/p'`)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return 0, fmt.Errorf("reading the lock's counter: %w", err)
	}
	return n, nil
}

func scanAll(ctx context.Context, s *deploy.Site) error {
	to6, err := linkLocal(ctx, s, cluster.S1)
	if err != nil {
		return err
	}
	from6, err := linkLocal(ctx, s, cluster.N1)
	if err != nil {
		return err
	}
	sources := []source{
		{node: cluster.N1, name: "n1_ipv4", address: cluster.Address(cluster.N1), port: 40000, last: 65535},
		{node: cluster.N1, name: "n1_ipv6", address: from6, six: true, port: 40000, last: 65535},
		// slurmd answers login nodes, for srun.
		{node: cluster.Login, name: "login_ipv4", address: cluster.Address(cluster.Login), port: 40000, last: 65535, allowed: []string{"tcp 6818 open"}},
	}
	return scanFrom(ctx, s, cluster.Address(cluster.S1), to6, sources)
}

// fromKnownPorts: only replies to the node's own connections may come from
// there. Slurm's controller may connect to slurmd, and to srun inside a job.
func fromKnownPorts(ctx context.Context, s *deploy.Site) error {
	var sources []source
	for name, port := range map[string]int{"nfs": 2049, "kms": 8200, "slurmctld": 6817} {
		sources = append(sources, source{node: cluster.Head, name: name, address: cluster.Address(cluster.Head), port: port, last: 7000, allowed: []string{"tcp 6818 open"}})
	}
	return scanFrom(ctx, s, cluster.Address(cluster.S1), "", sources)
}
