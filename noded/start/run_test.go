package start

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloister/noded/audit"
	"cloister/noded/status"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// asNoded names the directory of a noded that this test binary is started as.
const asNoded = "CLOISTER_TEST_NODED"

func TestMain(m *testing.M) {
	dir := os.Getenv(asNoded)
	if dir == "" {
		os.Exit(m.Run())
	}
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	os.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, stop := context.WithCancel(context.Background())
	go func() { // the test is gone, or wants an orderly end
		os.Stdin.Read(make([]byte, 1))
		stop()
	}()
	if err := Run(ctx, Config{PolicyFile: filepath.Join(dir, "policy.toml"), RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"), Node: "s2", Version: "test"}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// install writes what an on-demand node's noded needs.
func install(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &ca, &ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"run", "state", "credentials"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"credentials/identity": id.String() + "\n",
		"ca.pem":               string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"policy.toml":          "format = 1\nclass = \"on-demand\"\ncluster = \"lab\"\n[kms]\naddress = \"https://127.0.0.1:1\"\nca_file = \"" + dir + "/ca.pem\"\n[slurm]\ncontrollers = [\"127.0.0.1\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// systemd stands in for systemd: it gives noded its sockets and hears it.
type systemd struct {
	dir   string
	cmd   *exec.Cmd
	stdin *os.File
	heard *net.UnixConn
}

func start(t *testing.T, dir string, watchdog time.Duration) *systemd {
	t.Helper()
	s := &systemd{dir: dir}
	notify := filepath.Join(dir, "notify")
	os.Remove(notify)
	var err error
	if s.heard, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdin = out
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Stdin, s.cmd.Stderr = in, os.Stderr
	var names []string
	for _, u := range []struct{ unit, file, network string }{{socketName, "noded.sock", "unixpacket"}, {socketName, "status.sock", "unix"}, {metricsName, "metrics.sock", "unix"}} {
		path := filepath.Join(dir, "run", u.file)
		os.Remove(path)
		l, err := net.ListenUnix(u.network, &net.UnixAddr{Name: path, Net: u.network})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		defer f.Close()
		s.cmd.ExtraFiles = append(s.cmd.ExtraFiles, f)
		names = append(names, u.unit)
	}
	s.cmd.Env = append(os.Environ(), asNoded+"="+dir, "NOTIFY_SOCKET="+notify, "CREDENTIALS_DIRECTORY="+dir+"/credentials",
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"), fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	t.Cleanup(func() {
		s.stdin.Close()
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.heard.Close()
	})
	s.hears(t, "READY=1", 20*time.Second)
	return s
}

// hears waits for a notification that has the text.
func (s *systemd) hears(t *testing.T, text string, limit time.Duration) {
	t.Helper()
	if !s.hearsWithin(text, limit) {
		t.Fatalf("noded did not say %s within %s", text, limit)
	}
}

func (s *systemd) hearsWithin(text string, limit time.Duration) bool {
	s.heard.SetReadDeadline(time.Now().Add(limit))
	b := make([]byte, 4096)
	for {
		n, err := s.heard.Read(b)
		if err != nil {
			return false
		}
		if strings.Contains(string(b[:n]), text) {
			return true
		}
	}
}

func (s *systemd) ask(t *testing.T) *status.Status {
	t.Helper()
	st, err := status.Ask(t.Context(), filepath.Join(s.dir, "run/status.sock"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestNodedAnswersWhoAsksFeedsItsWatchdogAndKeepsRecordsThroughEveryEnd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("noded runs as root")
	}
	dir := install(t)
	s := start(t, dir, 300*time.Millisecond)
	st := s.ask(t)
	// This machine is no secure node.
	if st.State != status.Unfit || st.Node != "s2" || st.Class != "on-demand" || st.Locked || st.Session != nil || st.Version != "test" {
		t.Errorf("the status is %+v", st)
	}
	head, err := audit.ParseHead(st.Head)
	if err != nil {
		t.Fatal(err)
	}
	r, err := status.Recover(t.Context(), filepath.Join(dir, "run/status.sock"), 30*time.Second)
	if err != nil || r.Recovered || len(r.Lines) == 0 {
		t.Errorf("an unfit node was recovered: %+v, %v", r, err)
	}

	s.hears(t, "WATCHDOG=1", 5*time.Second)
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	for s.hearsWithin("WATCHDOG=1", time.Millisecond) { // what came before
	}
	if s.hearsWithin("WATCHDOG=1", time.Second) {
		t.Error("a noded that is stopped says that it is alive")
	}
	if _, err := status.Ask(t.Context(), filepath.Join(dir, "run/status.sock"), 200*time.Millisecond); err == nil {
		t.Error("it answers")
	}
	// As systemd ends it, with no time to write anything.
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.cmd.Wait()

	s = start(t, dir, time.Minute)
	if now := s.ask(t); now.Head == st.Head {
		t.Error("noded was started again and no record says so")
	}
	const soon = 5
	for range soon { // the last ones as soon as they are there
		s.stdin.Close() // an orderly end
		if err := s.cmd.Wait(); err != nil {
			t.Error(err)
		}
		s = start(t, dir, time.Minute)
	}
	s.stdin.Close()
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	report, err := audit.Verify(filepath.Join(dir, "state/audit"), &head)
	if err != nil || len(report.Faults)+len(report.Notes) > 0 {
		t.Errorf("the records are %+v, %v", report, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "state/audit/records-00000000000000000001.jsonl"))
	if err != nil || strings.Count(string(b), `"event":"node-started"`) != 2+soon || strings.Count(string(b), `"event":"node-stopped"`) != 1+soon {
		t.Errorf("recorded is %s, %v", b, err)
	}
}

func TestNodedStartsOnADiskThatBecameReadOnly(t *testing.T) {
	dir := install(t)
	state := filepath.Join(dir, "state")
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, ""); err != nil {
		t.Fatalf("this test must run as root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := start(t, dir, time.Minute)
	s.stdin.Close()
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	expired, long := filepath.Join(state, "jobs", strings.Repeat("0", 32)), time.Unix(1, 0)
	if err := errors.Join(os.WriteFile(expired, nil, 0o600), os.Chtimes(expired, long, long)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Mount("", state, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) { // a child that was being started has its files still
			t.Fatal(err)
		}
	}
	s = start(t, dir, time.Minute)
	if st := s.ask(t); st.State != status.Unfit || !strings.Contains(st.Records, "read-only") {
		t.Errorf("the node is %s, records: %q", st.State, st.Records)
	}
}

func TestAnIdleNodedCostsNothing(t *testing.T) {
	s := start(t, install(t), 30*time.Second)
	s.ask(t)
	usage := func() (rss, ticks int) {
		t.Helper()
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest) // from the third field of proc_pid_stat(5) on
		user, _ := strconv.Atoi(f[14-3])
		system, _ := strconv.Atoi(f[15-3])
		pages, _ := strconv.Atoi(f[24-3])
		return pages * os.Getpagesize(), user + system
	}
	_, before := usage()
	time.Sleep(12 * time.Second) // one feed of the watchdog, two rounds of the loop
	rss, after := usage()
	t.Logf("%d MB, %d ticks of 10 ms in 12 s", rss>>20, after-before)
	if rss > 30<<20 || after-before > 1 {
		t.Errorf("an idle noded has %d MB and used %d ticks of 10 ms in 12 s", rss>>20, after-before)
	}
}
