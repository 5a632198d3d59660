package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/noded/audit"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onFilter are attacks on the lock itself, and through it from inside.
var onFilter = []Attack{
	{Number: 13, Who: "A4 A6", Name: "the job connects to every host of the cluster on ports that answer, over TCP, UDP and IPv6", Long: true,
		Defences: defences(mutant.DefaultDrop), Before: listeners, Inside: probe + " connect $(cat " + targetsFile + ")", After: answered},
	{Number: 28, Who: "A6", Name: "the packet filter is flushed, deleted, opened by a rule, by a policy, made dormant during a session",
		Defences: defences(mutant.FilterWatch), During: flushed},
	{Number: 28, Who: "A6", Name: "sshd is started by hand, and its unit is freed and started, during a session",
		Defences: defences(mutant.DoorsWatch, mutant.ProcessWatch), During: doorsOpened},
}

// targetsFile is below /usr, where the job can read it.
const targetsFile = "/usr/local/share/probe-targets"

// unwantedPort is of no service that the policy names.
const unwantedPort = "7801"

// services are what the policy lets the job talk to.
var services = []string{"6817", "2049", "8200"}

// listeners start where nothing of the cluster listens yet, and everything is
// tried once before the session: each target must be able to answer.
func listeners(ctx context.Context, s *deploy.Site) error {
	var targets []string
	for _, node := range []string{cluster.Head, cluster.Login, cluster.N1} {
		six, err := linkLocal(ctx, s, node)
		if err != nil {
			return err
		}
		if _, err := background(ctx, s, node, "answers", probe+" listen tcp/"+unwantedPort+" udp/"+unwantedPort+" udp/53 tcp/53 udp/123 tcp/443"); err != nil {
			return err
		}
		ip := cluster.Address(node)
		for _, port := range []string{"tcp/%s:22", "tcp/%s:53", "tcp/%s:443", "tcp/%s:" + unwantedPort, "udp/%s:53", "udp/%s:123", "udp/%s:" + unwantedPort} {
			targets = append(targets, fmt.Sprintf(port, ip), fmt.Sprintf(port, "["+six+"%eth0]"))
		}
	}
	targets = append(targets, "tcp/"+cluster.Address(cluster.N1)+":6818")
	for _, port := range services {
		targets = append(targets, "tcp/"+cluster.Address(cluster.Head)+":"+port)
	}
	out, err := s.Output(ctx, cluster.S2, "mkdir -p /usr/local/share; echo '"+strings.Join(targets, " ")+"' > "+targetsFile+"; sleep 1; "+probe+" connect $(cat "+targetsFile+")")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(line, " open\n") {
			return fmt.Errorf("without a session already: %s", strings.TrimSpace(line))
		}
	}
	return nil
}

// answered reads what the job's connections came to.
func answered(ctx context.Context, s *deploy.Site, v Victim) error {
	for _, node := range []string{cluster.Head, cluster.Login, cluster.N1} {
		if _, err := s.Run(ctx, node, "systemctl stop answers"); err != nil {
			return err
		}
	}
	var reached, missed []string
	tried := 0
	for line := range strings.Lines(v.Said) {
		target, how, _ := strings.Cut(strings.TrimSpace(line), " ")
		tried++
		wanted := false
		for _, port := range services {
			wanted = wanted || target == "tcp/"+cluster.Address(cluster.Head)+":"+port
		}
		switch {
		case how == "open" && !wanted, how == "refused":
			reached = append(reached, target)
		case how != "open" && wanted:
			missed = append(missed, target+" is "+how)
		}
	}
	switch {
	case len(reached) > 0:
		return got("the job reached %d of %d places that the policy does not name, such as %s", len(reached), tried, reached[0])
	case len(missed) > 0:
		return fmt.Errorf("the job did not reach what the policy names: %s", strings.Join(missed, ", "))
	case tried == 0:
		return fmt.Errorf("the job tried nothing: %q", v.Said)
	}
	return nil
}

// flushed breaks the lock in every way that nft(8) offers, and wants it whole
// again within two seconds each time, and recorded.
func flushed(ctx context.Context, s *deploy.Site, _ Victim) error {
	before, err := s.Incidents(ctx, cluster.S2, audit.RulesChanged)
	if err != nil {
		return err
	}
	r, err := s.Run(ctx, cluster.S2, `nft -s list table inet cloister > /run/lock-before
while read -r break; do
	nft "$break" || echo "cannot: $break"
	whole=
	for i in $(seq 20); do
		nft -s list table inet cloister 2>/dev/null | cmp -s - /run/lock-before && whole=yes && break
		sleep 0.1
	done
	[ -n "$whole" ] || echo "open: $break"
done <<'END'
flush ruleset
delete table inet cloister
insert rule inet cloister input accept
insert rule inet cloister output accept
add chain inet cloister input { policy accept; }
flush chain inet cloister output
add table inet cloister { flags dormant; }
add element inet cloister slurm_hosts4 { 10.77.0.14 }
END`)
	if err != nil {
		return err
	}
	said := map[string][]string{}
	for line := range strings.Lines(r.Stdout) {
		what, how, _ := strings.Cut(strings.TrimSpace(line), ": ")
		said[what] = append(said[what], how)
	}
	if open := said["open"]; open != nil {
		return got("the node stays open after nft %s", open[0])
	}
	if cannot := said["cannot"]; cannot != nil {
		return fmt.Errorf("nft does not do %q: %s", cannot[0], r.Stderr)
	}
	after, err := s.Incidents(ctx, cluster.S2, audit.RulesChanged)
	if err != nil {
		return err
	}
	if after-before < 8 {
		return fmt.Errorf("of 8 changes to the packet filter %d are recorded", after-before)
	}
	return nil
}

// guards are what keeps ssh.service from starting on a locked node.
const guards = "/run/cloister/doors-closed /run/systemd/system/ssh.service.d/50-cloister.conf"

// doorsOpened opens SSH from the node's own side and looks whether it stays.
func doorsOpened(ctx context.Context, s *deploy.Site, _ Victim) error {
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "systemctl stop hand-sshd; pkill -x sshd")
	ways := map[string]bool{}
	for _, w := range []struct{ way, open, isOpen string }{
		{"sshd by hand", "mkdir -p /run/sshd; systemd-run -q --collect --unit=hand-sshd /usr/sbin/sshd -D -p 2222", "pgrep -x sshd"},
		{"ssh.service", "rm " + guards + " && systemctl daemon-reload && systemctl start ssh.service", "systemctl is-active -q ssh.service || ! ls " + guards},
	} {
		// The commands race with the watch, which may stop them. An emulated
		// node takes seconds to ask systemd.
		r, err := s.Run(ctx, cluster.S2, w.open+"; for i in $(seq 20); do { "+w.isOpen+"; } >/dev/null 2>&1 || exit 0; sleep 0.5; done; exit 1")
		if err != nil {
			return err
		}
		ways[w.way] = r.Exit != 0
	}
	return each(ways, "these stay open")
}
