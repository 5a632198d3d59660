//go:build guest

package lockdown

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/policy"
)

// These tests need a real systemd, logind and sshd: tests/guest runs them as
// root on a node of the test cluster, where alice may ssh without a password.

func guestContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// is asks systemctl, whose exit status says no for inactive.
func is(what, unit string) string {
	out, _ := exec.Command("systemctl", "is-"+what, unit).Output()
	return strings.TrimSpace(string(out))
}

// ssh logs alice in over the network stack of this node.
func ssh(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, "runuser", "-u", "alice", "--", "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "127.0.0.1", command)
}

func sshAnswers() bool {
	c, err := net.DialTimeout("tcp", "127.0.0.1:22", 5*time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	banner := make([]byte, 4)
	io.ReadFull(c, banner)
	return string(banner) == "SSH-"
}

func TestASessionFromBeforeTheLockIsDeadAndSSHIsBackAfterTheRelease(t *testing.T) {
	ctx := guestContext(t)
	output(t, "systemctl", "start", "ssh.service")
	doors := Doors{Units: policy.DefaultDoors()}
	prepared := time.Now()
	if err := doors.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("prepare %s", time.Since(prepared))
	before := output(t, "sh", "-c", "systemctl list-units --all --no-legend --plain 'ssh*' 'getty*' 'serial-getty*' 'cron*' 'atd*' | awk '{print $1,$3}' | sort; ls -l /run/systemd/system")

	// A session as an attacker would leave it: it ignores hang-ups, and one
	// process escaped from it into a session of its own.
	session := ssh(ctx, "setsid -f sh -c 'trap \"\" HUP TERM; sleep 4711'; trap '' HUP TERM; echo in; sleep 4712")
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	session.Stderr = os.Stderr
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	line := make([]byte, 3)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "in\n" {
		t.Fatalf("alice could not log in: %q %v", line, err)
	}
	go func() { ended <- session.Wait() }()
	t.Cleanup(func() { exec.Command("pkill", "-KILL", "-u", "alice").Run() })

	began := time.Now()
	state, err := doors.Survey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	surveyed := time.Now()
	t.Cleanup(func() {
		if err := doors.openAll(context.Background(), state); err != nil {
			t.Error(err)
		}
	})
	if err := doors.Close(ctx); err != nil {
		t.Fatal(err)
	}
	closed := time.Now()
	t.Logf("survey %s, close %s", surveyed.Sub(began), closed.Sub(surveyed))
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the session lives on")
	}
	if open, err := doors.Check(ctx); err != nil || len(open) > 0 {
		t.Errorf("after Close: %v %v", open, err)
	}
	if _, err := EndForeign(ctx, 2001, ""); err != nil {
		t.Error(err)
	}
	if out, _ := exec.Command("pgrep", "-af", "sleep 471[12]|sshd").Output(); len(out) > 0 {
		t.Errorf("left behind:\n%s", out)
	}
	if out := output(t, "loginctl", "--no-legend", "list-sessions"); out != "" {
		t.Errorf("logged in: %s", out)
	}
	if sshAnswers() {
		t.Error("port 22 answers")
	}
	if err := exec.Command("systemctl", "start", "ssh.service").Run(); err == nil {
		t.Error("ssh.service could be started")
	}
	if err := exec.Command("systemctl", "start", "sshd.service").Run(); err == nil {
		t.Error("sshd.service could be started")
	}
	if err := exec.Command("systemctl", "start", "getty@tty3.service").Run(); err == nil {
		t.Error("a getty could be started")
	}
	if err := ssh(ctx, "true").Run(); err == nil {
		t.Error("alice could log in")
	}

	began = time.Now()
	for range 2 {
		if err := doors.openAll(ctx, state); err != nil {
			t.Fatal(err)
		}
		t.Logf("open %s", time.Since(began))
		began = time.Now()
	}
	if !sshAnswers() {
		t.Error("port 22 does not answer after the release")
	}
	if out, err := ssh(ctx, "echo in").Output(); err != nil || string(out) != "in\n" {
		t.Errorf("alice cannot log in after the release: %q %v", out, err)
	}
	output(t, "loginctl", "terminate-user", "alice")
	after := output(t, "sh", "-c", "systemctl list-units --all --no-legend --plain 'ssh*' 'getty*' 'serial-getty*' 'cron*' 'atd*' | awk '{print $1,$3}' | sort; ls -l /run/systemd/system")
	if strip(after) != strip(before) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// strip leaves the names of units out that are down: systemd may forget them.
func strip(list string) string {
	var out []string
	for line := range strings.Lines(list) {
		if !strings.HasSuffix(strings.TrimSpace(line), " inactive") && !strings.HasPrefix(line, "total") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

func TestAnSSHDThatIsStartedByHandDuringASessionIsFoundAndStopped(t *testing.T) {
	ctx := guestContext(t)
	output(t, "systemctl", "start", "ssh.service")
	doors := Doors{Units: policy.DefaultDoors()}
	state, err := doors.Survey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := doors.openAll(context.Background(), state); err != nil {
			t.Error(err)
		}
	})
	if err := doors.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(closedFile); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "start", "ssh.service")
	open, err := doors.Check(ctx)
	if err != nil || !strings.Contains(strings.Join(open, " "), "ssh.service runs") {
		t.Errorf("found %v, %v", open, err)
	}
	if err := doors.reached(ctx, func(r *Reached) error { return r.closeAgain(ctx) }); err != nil {
		t.Fatal(err)
	}
	if open, err := doors.Check(ctx); err != nil || len(open) > 0 || is("active", "ssh.service") == "active" {
		t.Errorf("after closing again: %v %v", open, err)
	}
}

func TestSlurmAndTheFileSystemLiveUnderTheLockOfARealNode(t *testing.T) {
	ctx := guestContext(t)
	head := netip.MustParseAddr("10.77.0.10")
	l := Lock{
		Controllers: []netip.Addr{head}, FileServers: []netip.Addr{head}, KMS: []netip.AddrPort{netip.AddrPortFrom(head, 8200)},
		SlurmctldPort: 6817, SlurmdPort: 6818, NFSPort: 2049, SrunPorts: policy.PortRange{First: 60001, Last: 60010},
	}
	var f Filter
	began := time.Now()
	if err := f.Apply(ctx, l); err != nil {
		t.Fatal(err)
	}
	t.Logf("apply, first time %s", time.Since(began))
	t.Cleanup(func() {
		if err := f.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
	began = time.Now()
	if err := f.Apply(ctx, l); err != nil {
		t.Fatal(err)
	}
	t.Logf("apply %s", time.Since(began))
	began = time.Now()
	if err := f.Check(ctx, l); err != nil {
		t.Error(err)
	}
	t.Logf("check %s", time.Since(began))
	output(t, "timeout", "30", "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches; ls /shared")
	output(t, "timeout", "30", "scontrol", "ping")
	dir := t.TempDir()
	output(t, "timeout", "60", "mount", "-t", "nfs4", "-o", "vers=4.2,soft,timeo=50", "head:/shared", dir)
	output(t, "umount", dir)
	if c, err := net.DialTimeout("tcp", "10.77.0.11:22", 3*time.Second); err == nil {
		c.Close()
		t.Error("the login node's SSH was reached")
	}
	if d, err := f.Drops(ctx); err != nil || d.Out == 0 {
		t.Errorf("dropped %+v, %v", d, err)
	}
}

func TestAnSSHDAndAPersonsProcessThatComeUpAreEndedWithinASecond(t *testing.T) {
	ctx, cancel := context.WithCancel(guestContext(t))
	var mu sync.Mutex
	var said []string
	done := make(chan error, 1)
	own := OwnGroup()
	go func() {
		// The test's own group stays, so that the second one is a stranger's.
		done <- Strangers{Keep: func() []string { return nil }}.Watch(ctx, func(s string) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, s)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if own == "?" {
		t.Error("this process has no control group")
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // else sshd ends by itself
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // the first look
	for _, c := range [][]string{
		{"setsid", "/usr/sbin/sshd", "-D", "-p", "2222"},
		{"setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "sleep", "4713"},
	} {
		began := time.Now()
		cmd := exec.Command(c[0], c[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Errorf("%q ended by itself: %v", c, err)
			}
			t.Logf("%q lived %s, its start included", c, time.Since(began))
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			t.Errorf("%q lives", c)
		}
	}
	// It reports when it has looked whether they are gone.
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		reported := slices.Clone(said)
		mu.Unlock()
		if len(reported) >= 2 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("reported: %q", reported)
		}
	}
}

// A process that forks and ends in turn is gone before it can be killed by its
// number, but not out of its control group.
func TestAProcessThatForksAndEndsInTurnIsEndedWithItsGroup(t *testing.T) {
	const group = "/sys/fs/cgroup/hopping"
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.WriteFile(group+"/cgroup.kill", []byte("1"), 0)
		exec.Command("sh", "-c", "for i in $(seq 50); do rmdir "+group+" && break; sleep 0.1; done").Run()
	})
	hop := exec.Command("sh", "-c", "echo $$ > "+group+"/cgroup.procs; exec setpriv --reuid=2001 --clear-groups perl -e 'while (1) { exit if fork }'")
	if err := hop.Run(); err != nil { // its output would be the hopping process's too
		t.Fatal(err)
	}
	if _, err := EndForeign(guestContext(t), 2001, ""); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(group + "/cgroup.events"); err != nil || !strings.Contains(string(b), "populated 0") {
		t.Errorf("in its group: %q, %v", b, err)
	}
}
