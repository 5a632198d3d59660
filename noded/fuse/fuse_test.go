package fuse

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stuckIn, in the environment, has the test's program get stuck in a FUSE file
// system of its own on that directory.
const stuckIn = "CLOISTER_TEST_STUCK_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(stuckIn); dir != "" {
		fmt.Fprintln(os.Stderr, getStuck(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// getStuck serves a FUSE file system up to the first question about a name,
// which it asks itself and never answers.
func getStuck(dir string) error {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Mount("stuck", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev)); err != nil {
		return err
	}
	question := make([]byte, 64<<10)
	if _, err := unix.Read(dev, question); err != nil {
		return err
	}
	// fuse_out_header, then fuse_init_out (linux/fuse.h): version 7.31.
	answer := make([]byte, 16+64)
	binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
	copy(answer[8:16], question[8:16])
	binary.NativeEndian.PutUint32(answer[16:], 7)
	binary.NativeEndian.PutUint32(answer[20:], 31)
	binary.NativeEndian.PutUint32(answer[36:], 4096) // max_write
	if _, err := unix.Write(dev, answer); err != nil {
		return err
	}
	go unix.Stat(filepath.Join(dir, "name"), new(unix.Stat_t))
	for {
		if _, err := unix.Read(dev, question); err != nil {
			return err
		}
		if binary.NativeEndian.Uint32(question[4:]) == 1 { // FUSE_LOOKUP
			break
		}
	}
	fmt.Println("stuck")
	select {}
}

// stuck starts a process that cannot be killed, in a mount namespace of its own.
func stuck(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0])
	cmd.Env = append(os.Environ(), stuckIn+"="+t.TempDir())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "stuck\n" {
		t.Fatalf("the process printed %q, %v: %s", line, err, errs.String())
	}
	return cmd
}

func connectionOf(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " - fuse stuck ") {
			n, err := connection(strings.Fields(line)[2])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("it has no FUSE file system")
	return ""
}

// newGroup makes a control group and returns its directory and its name.
func newGroup(t *testing.T) (dir, name string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			name = "/cloister-test-" + strconv.Itoa(os.Getpid())
			dir = f[1] + name
			break
		}
	}
	if dir == "" {
		t.Fatal("needs cgroup v2")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir, name
}

func diesWithin(cmd *exec.Cmd, limit time.Duration) bool {
	_ = cmd.Process.Kill()
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

func TestAProcessThatWaitsForItselfGoesAndOthersFileSystemsStay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to mount and to abort")
	}
	dir, group := newGroup(t)
	other, mine := stuck(t), stuck(t)
	its, others := connectionOf(t, mine), connectionOf(t, other)
	t.Cleanup(func() {
		if _, err := abort(func(c string) bool { return c == its || c == others }); err != nil || !diesWithin(other, 10*time.Second) {
			t.Errorf("the other process stays: %v", err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(mine.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { _ = mine.Process.Kill(); _ = mine.Wait(); close(gone) }()
	select {
	case <-gone:
		t.Fatal("the process could be killed: the test shows nothing")
	case <-time.After(300 * time.Millisecond):
	}
	aborted, err := AbortAll(group)
	if err != nil || !slices.Contains(aborted, its) || slices.Contains(aborted, others) {
		t.Errorf("aborted %q, %v, want %s and not %s", aborted, err, its, others)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the process is still there")
	}
}

func TestAConnectionHasTheNumberOfItsDevice(t *testing.T) {
	for device, want := range map[string]string{"0:51": "51", "8:1": "8388609", "0:1048575": "1048575"} {
		if got, err := connection(device); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", device, got, err, want)
		}
	}
	for _, device := range []string{"", "0", "0:", ":1", "0:1048576", "4096:0", "0:-1"} {
		if got, err := connection(device); err == nil {
			t.Errorf("%q is %s", device, got)
		}
	}
}
