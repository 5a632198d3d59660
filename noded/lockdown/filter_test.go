//go:build !guest

package lockdown

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/policy"
)

var update = flag.Bool("update", false, "write the golden files from what the kernel has now")

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func reuse(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
}

func apply(t testing.TB, s space, l Lock) {
	t.Helper()
	if err := s.filter().Apply(context.Background(), l); err != nil {
		t.Fatal(err)
	}
}

func TestTheRulesReadAsTheGoldenText(t *testing.T) {
	plain := labLock()
	plain.Controllers, plain.FileServers, plain.KMS = addrs("10.9.0.10"), addrs("10.9.0.10"), plain.KMS[:1]
	plain.Clients, plain.Peers, plain.DNS, plain.NTP = nil, nil, nil, nil
	counters := regexp.MustCompile(`counter packets \d+ bytes \d+`)
	for name, l := range map[string]Lock{"every-flow": labLock(), "one-head-node": plain} {
		s := newSpace(t)
		apply(t, s, l)
		got := counters.ReplaceAllString(s.run("nft", "list", "table", "inet", TableName), "counter packets 0 bytes 0")
		file := filepath.Join("testdata", name+".nft")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: the kernel has\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestOnlyTheLocksFlowsPass(t *testing.T) {
	node, peer := newSpace(t), newSpace(t)
	wire(t, node, peer)
	for _, a := range []string{":22", ":6818", ":60005", ":2049", ":8080"} {
		node.listen("tcp", a)
	}
	node.listen("udp", "10.9.0.1:123")
	for _, a := range []string{":22", ":53", ":2049", ":6817", ":6818", ":8200", ":60005", ":443"} {
		peer.listen("tcp", a)
	}
	for _, a := range []string{"[fd09::10]:123", "10.9.0.10:53", "10.9.0.14:53", "10.9.0.14:4444"} {
		peer.listen("udp", a)
	}

	type try struct {
		name      string
		call      func() error
		out, pass bool
	}
	dial := func(s space, from, to string) func() error { return func() error { return s.dial(from, to) } }
	ask := func(s space, to string) func() error { return func() error { return s.ask(to) } }
	tries := []try{
		{"to slurmctld", dial(node, "", "10.9.0.10:6817"), true, true},
		{"to slurmctld by IPv6", dial(node, "", "[fd09::10]:6817"), true, true},
		{"to the file server", dial(node, "", "10.9.0.13:2049"), true, true},
		{"to the file server by IPv6", dial(node, "", "[fd09::13]:2049"), true, true},
		{"to the KMS", dial(node, "", "10.9.0.10:8200"), true, true},
		{"to srun on a login node", dial(node, "", "10.9.0.11:60005"), true, true},
		{"to slurmd on a peer", dial(node, "", "10.9.0.12:6818"), true, true},
		{"to DNS", ask(node, "10.9.0.10:53"), true, true},
		{"to DNS by TCP", dial(node, "", "10.9.0.10:53"), true, true},
		{"to NTP by IPv6", ask(node, "[fd09::10]:123"), true, true},
		{"to itself", dial(node, "", "10.9.0.1:8080"), true, true},
		{"from slurmctld", dial(peer, "10.9.0.10:0", "10.9.0.1:6818"), false, true},
		{"from slurmctld by IPv6", dial(peer, "[fd09::10]:0", "[fd09::1]:6818"), false, true},
		{"from a login node's srun", dial(peer, "10.9.0.11:0", "10.9.0.1:6818"), false, true},
		{"from a peer to srun here", dial(peer, "10.9.0.12:0", "10.9.0.1:60005"), false, true},

		{"to slurmctld's host elsewhere", dial(node, "", "10.9.0.10:443"), true, false},
		{"to NFS on another host", dial(node, "", "10.9.0.11:2049"), true, false},
		{"to the KMS's port on another host", dial(node, "", "10.9.0.12:8200"), true, false},
		{"to a stranger", dial(node, "", "10.9.0.14:443"), true, false},
		{"to a stranger by IPv6", dial(node, "", "[fd09::14]:443"), true, false},
		{"to a stranger by UDP", ask(node, "10.9.0.14:4444"), true, false},
		{"to DNS on another host", ask(node, "10.9.0.14:53"), true, false},
		{"to SSH of the head node", dial(node, "", "10.9.0.10:22"), true, false},
		{"from a login node to SSH", dial(peer, "10.9.0.11:0", "10.9.0.1:22"), false, false},
		{"from a login node to SSH by IPv6", dial(peer, "[fd09::11]:0", "[fd09::1]:22"), false, false},
		{"from slurmctld to SSH", dial(peer, "10.9.0.10:0", "10.9.0.1:22"), false, false},
		{"from a stranger to slurmd", dial(peer, "10.9.0.14:0", "10.9.0.1:6818"), false, false},
		{"from the file server to slurmd", dial(peer, "10.9.0.13:0", "10.9.0.1:6818"), false, false},
		{"from a login node to srun here", dial(peer, "10.9.0.11:0", "10.9.0.1:60005"), false, false},
		{"from a stranger to NTP", ask(peer, "10.9.0.1:123"), false, false},
		// Attack 38: the well-known port opens the connection.
		{"from the file server's port 2049 to SSH", dial(peer, "10.9.0.13:2049", "10.9.0.1:22"), false, false},
		{"from the file server's port 2049 to port 2049", dial(peer, "10.9.0.13:2049", "10.9.0.1:2049"), false, false},
		{"from the file server's port 2049 by IPv6", dial(peer, "[fd09::13]:2049", "[fd09::1]:22"), false, false},
		{"from slurmctld's port 6817 to SSH", dial(peer, "10.9.0.10:6817", "10.9.0.1:22"), false, false},
		{"from the KMS's port to SSH", dial(peer, "10.9.0.10:8200", "10.9.0.1:22"), false, false},
	}
	for _, c := range tries {
		if err := c.call(); err != nil {
			t.Errorf("before the lock, %s: %v", c.name, err)
		}
	}
	apply(t, node, labLock())
	for _, c := range tries {
		before := drops(t, node)
		err := c.call()
		after := drops(t, node)
		in, out := after.In > before.In, after.Out > before.Out
		switch {
		case c.pass && err != nil:
			t.Errorf("%s: %v; dropped in %v, out %v", c.name, err, in, out)
		case !c.pass && err == nil:
			t.Errorf("%s: got through the lock", c.name)
		case !c.pass && c.out && !out, !c.pass && !c.out && !in:
			t.Errorf("%s: failed (%v), but not by the lock: nothing was counted", c.name, err)
		}
	}
	if err := node.filter().Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, c := range tries {
		if err := c.call(); err != nil {
			t.Errorf("after the release, %s: %v", c.name, err)
		}
	}
}

func drops(t testing.TB, s space) Drops {
	t.Helper()
	d, err := s.filter().Drops(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConnectionsFromBeforeTheLockEndUnlessTheyAreTheLocksOwn(t *testing.T) {
	node, peer := newSpace(t), newSpace(t)
	wire(t, node, peer)
	node.listen("tcp", ":22")
	node.listen("tcp", ":6818")
	for _, a := range []string{":2049", ":443"} {
		peer.listen("tcp", a)
	}
	open := func(s space, from, to string) net.Conn {
		t.Helper()
		c, err := s.open(from, to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := talk(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	kept := map[string]net.Conn{
		"NFS mount":         open(node, "", "10.9.0.13:2049"),
		"NFS mount by IPv6": open(node, "", "[fd09::13]:2049"),
		"slurmctld's":       open(peer, "10.9.0.10:0", "10.9.0.1:6818"),
	}
	ended := map[string]net.Conn{
		"ssh session":                          open(peer, "10.9.0.11:0", "10.9.0.1:22"),
		"ssh session by IPv6":                  open(peer, "[fd09::11]:0", "[fd09::1]:22"),
		"session from the file server's port":  open(peer, "10.9.0.13:2049", "10.9.0.1:22"),
		"session from there by IPv6":           open(peer, "[fd09::13]:2049", "[fd09::1]:22"),
		"upload to a stranger":                 open(node, "", "10.9.0.14:443"),
		"upload to a stranger's file server":   open(node, "", "10.9.0.14:2049"),
		"stranger's connection to slurmd":      open(peer, "10.9.0.14:0", "10.9.0.1:6818"),
		"slurmd's well-known port to stranger": open(peer, "10.9.0.14:6817", "10.9.0.1:6818"),
	}
	apply(t, node, labLock())
	for name, c := range kept {
		if err := talk(c); err != nil {
			t.Errorf("the %s did not live on: %v", name, err)
		}
	}
	for name, c := range ended {
		if err := talk(c); err == nil {
			t.Errorf("the %s lives on", name)
		}
	}
}

func TestApplyTwiceAndReleaseTwiceAreNoErrorAndTouchNoOtherTable(t *testing.T) {
	s := newSpace(t)
	s.run("nft", "add table inet site; add chain inet site c { type filter hook input priority 0; policy accept; }; add rule inet site c tcp dport 22 accept")
	others := s.run("nft", "list", "ruleset")
	ctx := context.Background()
	apply(t, s, labLock())
	first := s.run("nft", "list", "ruleset")
	apply(t, s, labLock())
	if again := s.run("nft", "list", "ruleset"); again != first {
		t.Errorf("the second Apply left\n%s\nafter\n%s", again, first)
	}
	for range 2 {
		if err := s.filter().Release(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if now := s.run("nft", "list", "ruleset"); now != others {
		t.Errorf("left\n%s\nwant\n%s", now, others)
	}
}

func TestAnotherTablesAcceptOpensNothing(t *testing.T) {
	node, peer := newSpace(t), newSpace(t)
	wire(t, node, peer)
	node.listen("tcp", ":22")
	for name, priority := range map[string]string{"first": "-500", "filter": "0", "same": "10", "late": "500"} {
		node.run("nft", "add table inet site; add chain inet site "+name+" { type filter hook input priority "+priority+"; policy accept; }; add rule inet site "+name+" accept")
	}
	apply(t, node, labLock())
	if err := peer.dial("", "10.9.0.1:22"); err == nil {
		t.Error("SSH answers on a locked node")
	}
}

func TestAnotherTablesRedirectOpensNothing(t *testing.T) {
	node, peer := newSpace(t), newSpace(t)
	wire(t, node, peer)
	node.listen("tcp", ":22")
	const slurmd = "6818"
	node.run("nft", "add table inet site; add chain inet site early { type nat hook prerouting priority -100; }; add rule inet site early tcp dport { 23, "+slurmd+" } redirect to :22")
	for _, to := range []string{"10.9.0.1:23", "10.9.0.1:" + slurmd} {
		if err := peer.dial("10.9.0.10:0", to); err != nil {
			t.Fatalf("an open node does not redirect %s: %v", to, err)
		}
	}
	apply(t, node, labLock())
	for _, from := range []string{"10.9.0.10:0", "10.9.0.14:0"} {
		for _, to := range []string{"10.9.0.1:23", "10.9.0.1:" + slurmd} {
			if err := peer.dial(from, to); err == nil {
				t.Errorf("from %s to %s SSH answers on a locked node", from, to)
			}
		}
	}
}

func TestCheckNoticesEveryAlteration(t *testing.T) {
	s := newSpace(t)
	ctx, f := context.Background(), s.filter()
	if err := f.Check(ctx, labLock()); !Differs(err) {
		t.Errorf("an unlocked node checks as %v", err)
	}
	other := labLock()
	other.FileServers = addrs("10.9.0.99", "fd09::13")
	ports := labLock()
	ports.SrunPorts = policy.PortRange{First: 60001, Last: 60020}
	for _, l := range []Lock{other, ports} {
		apply(t, s, labLock())
		if err := f.Check(ctx, l); !Differs(err) {
			t.Errorf("another lock checks as %v", err)
		}
	}
	for _, edit := range []string{
		"flush ruleset",
		"delete table inet cloister",
		"flush table inet cloister",
		"flush chain inet cloister input",
		"add table inet cloister { flags dormant; }",
		"add rule inet cloister input tcp dport 22 accept",
		"insert rule inet cloister output accept",
		"add chain inet cloister input { policy accept; }",
		"add chain inet cloister extra",
		"add set inet cloister extra { type ipv4_addr; }",
		"add element inet cloister file_servers4 { 10.9.0.14 }",
		"flush set inet cloister kms4",
	} {
		apply(t, s, labLock())
		if err := f.Check(ctx, labLock()); err != nil {
			t.Fatalf("before any alteration: %v", err)
		}
		s.run("nft", edit)
		if err := f.Check(ctx, labLock()); !Differs(err) {
			t.Errorf("after %q: %v", edit, err)
		}
	}
}

func TestAFlushedTableIsBackWithinASecondAndReported(t *testing.T) {
	s := newSpace(t)
	apply(t, s, labLock())
	ctx, cancel := context.WithCancel(context.Background())
	reports := make(chan string, 16)
	done := make(chan error)
	go func() { done <- s.filter().Watch(ctx, labLock(), func(r string) { reports <- r }) }()
	time.Sleep(100 * time.Millisecond)
	for _, edit := range []string{"flush ruleset", "delete table inet cloister", "flush table inet cloister", "insert rule inet cloister input accept",
		"add element inet cloister file_servers4 { 10.9.0.14 }", "add chain inet cloister output { policy accept; }"} {
		s.run("nft", edit)
		select {
		case r := <-reports:
			if !strings.Contains(r, "restored") {
				t.Errorf("after %q: %s", edit, r)
			}
		case <-time.After(time.Second):
			t.Fatalf("nothing a second after %q", edit)
		}
		if err := s.filter().Check(ctx, labLock()); err != nil {
			t.Errorf("after %q: %v", edit, err)
		}
	}
	s.run("nft", "add table inet somebody_else")
	time.Sleep(100 * time.Millisecond)
	if len(reports) > 0 {
		t.Errorf("somebody else's table was reported: %s", <-reports)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Second):
		t.Error("Watch did not end")
	}
}

func TestALockThatCannotBeMeantIsRefusedBeforeAnythingChanges(t *testing.T) {
	s := newSpace(t)
	for name, change := range map[string]func(*Lock){
		"no controller":    func(l *Lock) { l.Controllers = nil },
		"port 0":           func(l *Lock) { l.NFSPort = 0 },
		"everybody":        func(l *Lock) { l.FileServers = addrs("0.0.0.0") },
		"a mapped address": func(l *Lock) { l.FileServers = addrs("::ffff:10.0.0.1") },
		"two KMS ports":    func(l *Lock) { l.KMS[1] = netip.AddrPortFrom(l.KMS[1].Addr(), 443) },
	} {
		l := labLock()
		change(&l)
		if err := s.filter().Apply(context.Background(), l); err == nil {
			t.Errorf("%s: applied", name)
		}
		if got := s.run("nft", "list", "ruleset"); got != "" {
			t.Errorf("%s: left %s", name, got)
		}
	}
}
