//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// must runs a script that has to succeed.
func must(t *testing.T, c *Cluster, node, script string, opts ...RunOption) string {
	t.Helper()
	out, err := c.Output(t.Context(), node, script, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func timed(t *testing.T, what string, f func()) {
	began := time.Now()
	f()
	t.Logf("%s: %.2f s", what, time.Since(began).Seconds())
}

// One cluster for all that does not harm the others: a start is what costs time.
func TestACluster(t *testing.T) {
	c := ForTest(t, Options{})
	for _, s := range []struct {
		name string
		test func(*testing.T, *Cluster)
	}{
		{"has five nodes that know each other", testFiveNodes},
		{"returns exit status, output and signals of commands", testRun},
		{"runs commands of one node at once", testConcurrentRun},
		{"ends a command that takes too long", testTimeout},
		{"lets users log in to an unlocked node", testSSH},
		{"runs jobs in both partitions as their user", testJobs},
		{"copies files, also to a node with its network locked", testCopy},
		{"reaches nothing beyond its bridge", testIsolation},
		{"captures what crosses the bridge", testCapture},
		{"saves a node's memory, and lets it not fall behind", testSaveMemory},
		{"keeps logs of all nodes", testLogs},
		{"keeps what was synced over a power cut", testPowerCut},
	} {
		t.Run(s.name, func(t *testing.T) { s.test(t, c) })
	}
}

func testFiveNodes(t *testing.T, c *Cluster) {
	for _, g := range c.nodes {
		lag, err := g.agent.clockLag()
		if err != nil || lag.Abs() > time.Second {
			t.Errorf("%s's clock is %v behind the host's, %v", g.spec.Name, lag, err)
		}
	}
	err := c.each(func(g *node) error {
		out, err := c.Output(t.Context(), g.spec.Name, "for h in "+strings.Join(Nodes, " ")+"; do ping -q -c 1 -W 20 $h >/dev/null || exit 1; done\n"+
			"systemctl is-active -q ssh munge dbus && [ -z \"$(systemctl --failed -q)\" ] && hostname")
		if err == nil && strings.TrimSpace(out) != g.spec.Name {
			err = fmt.Errorf("%s calls itself %s", g.spec.Name, out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, n := range slurmNodes() {
		if out := must(t, c, n, "journalctl -q -u slurmd -g '(Rewound|Expired) credential'; true"); out != "" {
			t.Errorf("the clocks differed when the saved cluster went on: %s", out)
		}
	}
	// what a session needs of the kernel and the image
	must(t, c, S1, "modprobe -n -a dm_crypt dm_verity loop nf_tables fuse ext4 && test -c /dev/loop-control && test -c /dev/mapper/control")
	must(t, c, S1, "for p in nft cryptsetup apptainer squashfuse_ll conntrack e2fsck setpriv; do command -v $p || exit 1; done")
	if out := must(t, c, S1, "touch /shared/home/alice/x 2>&1 || true"); !strings.Contains(out, "denied") {
		t.Errorf("root of s1 writes to alice's home on the file server: %q", out)
	}
}

func testSaveMemory(t *testing.T, c *Cluster) {
	g, err := c.guest(N1)
	if err != nil {
		t.Fatal(err)
	}
	// To save its memory may take too little time to be seen.
	if err := g.monitor(t.Context(), func(m *monitor) error {
		_, stop := m.do("stop", nil)
		time.Sleep(3 * time.Second)
		_, cont := m.do("cont", nil)
		return errors.Join(stop, cont)
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.SaveMemory(t.Context(), N1, filepath.Join(t.TempDir(), "memory")); err != nil {
		t.Fatal(err)
	}
	lag, err := g.agent.clockLag()
	if err != nil || lag.Abs() > time.Second {
		t.Errorf("its clock is %v behind the host's, %v", lag, err)
	}
}

func testRun(t *testing.T, c *Cluster) {
	r, err := c.Run(t.Context(), N1, "cat; echo err >&2; exit 7", Stdin([]byte("in\x00put")))
	if want := (Result{"in\x00put", "err\n", 7}); err != nil || r != want {
		t.Errorf("got %+v, %v; want %+v", r, err, want)
	}
	if r, err = c.Run(t.Context(), N1, "kill -9 $$"); err != nil || r.Exit != 137 {
		t.Errorf("killed by signal 9: got %+v, %v", r, err)
	}
	r, err = c.RunAs(t.Context(), "alice", Login, `echo $USER $HOME $(id -u) $(pwd); exit 3`)
	if want := (Result{"alice /shared/home/alice 2001 /shared/home/alice\n", "", 3}); err != nil || r != want {
		t.Errorf("got %+v, %v; want %+v", r, err, want)
	}
	if _, err := c.Run(t.Context(), "s3", "true"); err == nil {
		t.Error("a command ran on a node that does not exist")
	}
	timed(t, "20 × true on n1", func() {
		for range 20 {
			must(t, c, N1, "true")
		}
	})
}

func testConcurrentRun(t *testing.T, c *Cluster) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r, err := c.Run(t.Context(), Login, fmt.Sprintf("sleep 0.%d; echo %d; exit %d", 8-i, i, i))
			if want := (Result{fmt.Sprintln(i), "", i}); err != nil || r != want {
				t.Errorf("got %+v, %v; want %+v", r, err, want)
			}
		}()
	}
	wg.Wait()
}

func testTimeout(t *testing.T, c *Cluster) {
	_, err := c.Run(t.Context(), N1, "sleep 4711; true", Timeout(time.Second))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	must(t, c, N1, "for i in 1 2 3 4 5 6 7 8 9; do pgrep -f '^sleep 4711' || exit 0; sleep 1; done; exit 1")
}

func testSSH(t *testing.T, c *Cluster) {
	out, err := c.OutputAs(t.Context(), "alice", Login, "ssh s2 'hostname; id -un; loginctl --no-legend list-sessions'")
	if err != nil || !strings.HasPrefix(out, "s2\nalice\n") || !strings.Contains(out, " 2001 alice") {
		t.Errorf("ssh login to s2: %q, %v", out, err)
	}
}

func testJobs(t *testing.T, c *Cluster) {
	for partition, nodes := range map[string]string{"batch": "n1", "secure": "s1 s2"} {
		timed(t, "sbatch -W in "+partition, func() {
			out, err := c.OutputAs(t.Context(), "alice", Login,
				"timeout 120 sbatch -W -p "+partition+" -o "+partition+".out --wrap 'hostname; id -un; exit 5'; echo status $?; cat "+partition+".out")
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if len(lines) != 4 || lines[1] != "status 5" || !strings.Contains(nodes, lines[2]) || lines[3] != "alice" {
				t.Errorf("job in %s: %q", partition, out)
			}
		})
	}
	job := must(t, c, Head, "scontrol show job -o")
	if !strings.Contains(job, "JobState=FAILED") || !strings.Contains(job, "ExitCode=5:0") {
		t.Errorf("ended jobs are not shown: %s", job)
	}
	for _, n := range []struct{ node, want string }{{S1, "1"}, {S2, "1"}, {N1, "0"}} {
		if got := must(t, c, n.node, "grep -c GetEnvTimeout=0 /etc/slurm/slurm.conf || true"); got != n.want {
			t.Errorf("%s: %s lines with GetEnvTimeout=0", n.node, got)
		}
	}
}

func testCopy(t *testing.T, c *Cluster) {
	dir := t.TempDir()
	local, back := filepath.Join(dir, "it's"), filepath.Join(dir, "back")
	data := make([]byte, 8<<20)
	rand.Read(data)
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	same := func() {
		t.Helper()
		got, err := os.ReadFile(back)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("came back different: %d bytes of %d, %v", len(got), len(data), err)
		}
	}
	timed(t, "put 8 MiB", func() {
		if err := c.Put(t.Context(), S2, local, "/root/it's", 0o751); err != nil {
			t.Fatal(err)
		}
	})
	if mode := must(t, c, S2, `stat -c %a "/root/it's"; ls /root/*.part 2>/dev/null || true`); mode != "751" {
		t.Errorf("mode %s", mode)
	}
	timed(t, "get 8 MiB", func() {
		if err := c.Get(t.Context(), S2, "/root/it's", back); err != nil {
			t.Fatal(err)
		}
	})
	same()
	data = data[:200<<10]
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, c, N1, "nft 'add table inet lock; add chain inet lock o { type filter hook output priority 0; policy drop; }'")
	defer must(t, c, N1, "nft delete table inet lock")
	timed(t, "put and get 200 KiB, locked node", func() {
		if err := c.Put(t.Context(), N1, local, "/root/locked", 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.Get(t.Context(), N1, "/root/locked", back); err != nil {
			t.Fatal(err)
		}
	})
	same()
	if err := c.Get(t.Context(), S2, "/root/missing", back); err == nil {
		t.Error("got a file that is not there")
	}
}

func testIsolation(t *testing.T, c *Cluster) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	must(t, c, Login, "ip route add default via "+HostAddress())
	defer must(t, c, Login, "ip route del default")
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range append(addrs, &net.IPNet{IP: net.ParseIP(HostAddress())}) {
		ip := a.(*net.IPNet).IP
		if ip.To4() == nil || ip.IsLoopback() {
			continue
		}
		if ip.String() != HostAddress() { // the way to it exists for the host itself
			conn, err := net.Dial("tcp", net.JoinHostPort(ip.String(), port))
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
		if r, err := c.Run(t.Context(), Login, fmt.Sprintf("timeout 10 bash -c 'exec 3<>/dev/tcp/%s/%s'", ip, port)); err != nil || r.Exit == 0 {
			t.Errorf("a guest reaches %s of the host: %+v, %v", ip, r, err)
		}
	}
}

func testCapture(t *testing.T, c *Cluster) {
	path := filepath.Join(t.TempDir(), "bridge.pcap")
	stop, err := c.Capture(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	must(t, c, Login, "echo canary-4711 | timeout 20 bash -c 'cat > /dev/tcp/head/22'")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Contains(b, []byte("canary-4711")) {
		t.Errorf("not in the capture (%d bytes), %v", len(b), err)
	}
}

func testLogs(t *testing.T, c *Cluster) {
	dir := t.TempDir()
	if err := c.KeepLogs(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"head.slurm": "slurmctld version", "s1.slurm": "slurmd version", "n1.journal": "Linux version", "login.state": "/shared"} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s (%d bytes) has no %q: %v", file, len(b), want, err)
		}
	}
}

func testPowerCut(t *testing.T, c *Cluster) {
	must(t, c, S1, "echo kept > /root/synced; sync; echo lost > /root/unsynced; echo "+diskMark+" > /root/mark; sync /root/mark")
	if err := c.PowerCut(S1); err != nil {
		t.Fatal(err)
	}
	overlay, err := c.Overlay(S1)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(overlay); err != nil || !bytes.Contains(b, []byte(diskMark)) {
		t.Errorf("the overlay does not show what the guest wrote to its disk: %v", err)
	}
	if r, err := c.Run(t.Context(), S1, "true", Timeout(10*time.Second)); err == nil {
		t.Errorf("a node without power answers: %+v", r)
	}
	timed(t, "restart of s1 to idle", func() {
		if err := c.Restart(t.Context(), S1); err != nil {
			t.Fatal(err)
		}
	})
	if got := must(t, c, S1, "cat /root/synced; cut -d. -f1 /proc/uptime"); !strings.HasPrefix(got, "kept\n") {
		t.Errorf("synced file: %q", got)
	}
	out, err := c.OutputAs(t.Context(), "alice", Login, "timeout 100 srun -p secure -w s1 hostname")
	if err != nil || strings.TrimSpace(out) != "s1" {
		t.Errorf("job on the restarted node: %q, %v", out, err)
	}
}

const diskMark = "mark-on-the-disk-0815"

func TestAPreparedStateIsMadeOnceAndEachClusterGetsItsOwnCopy(t *testing.T) {
	prepared := 0
	opts := Options{
		PrepareKey: "test " + randomID(),
		Prepare: func(ctx context.Context, c *Cluster) error {
			prepared++
			_, err := c.Output(ctx, S2, "echo installed > /root/product")
			return err
		},
	}
	for i := range 2 {
		c := ForTest(t, opts)
		if got := must(t, c, S2, "cat /root/product"); got != "installed" {
			t.Errorf("cluster %d: %q", i, got)
		}
		must(t, c, S2, "echo changed > /root/product; sync")
	}
	if prepared != 1 {
		t.Errorf("prepared %d times", prepared)
	}
}

func TestWhatACrashedProcessLeavesIsRemovedByTheNextStart(t *testing.T) {
	if os.Getenv("CLUSTER_TEST_CRASH") != "" {
		c, err := Start(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("dir=%s netns=%s\n", c.Dir(), c.Netns())
		os.Stdout.Sync()
		select {} // until killed
	}
	TakeTurn(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "CLUSTER_TEST_CRASH=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir, ns string
	if _, err := fmt.Fscanf(out, "dir=%s netns=%s\n", &dir, &ns); err != nil {
		cmd.Process.Kill()
		t.Fatal(err)
	}
	if pids, err := exec.Command("ip", "netns", "pids", ns).Output(); err != nil || len(strings.Fields(string(pids))) < len(specs) {
		t.Fatalf("guests before the crash: %q, %v", pids, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for range 100 {
		if pids, _ := exec.Command("ip", "netns", "pids", ns).Output(); len(pids) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if pids, _ := exec.Command("ip", "netns", "pids", ns).Output(); len(pids) != 0 {
		t.Errorf("guests outlive their owner: %q", pids)
	}
	c := ForTest(t, Options{})
	if c.Dir() == dir {
		t.Fatal("the directory was used again")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if _, err := os.Stat("/run/netns/" + ns); !os.IsNotExist(err) {
		t.Errorf("namespace %s is still there: %v", ns, err)
	}
}
