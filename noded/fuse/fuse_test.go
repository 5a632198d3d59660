package fuse

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"cloister/noded/cgroup"

	"golang.org/x/sys/unix"
)

// stuckIn, in the environment, has the test's program get stuck in a FUSE file
// system of its own on that directory; stuckAtEnd, only when it is killed.
const (
	stuckIn    = "CLOISTER_TEST_STUCK_IN"
	stuckAtEnd = "CLOISTER_TEST_STUCK_AT_END"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(stuckIn); dir != "" {
		fmt.Fprintln(os.Stderr, getStuck(dir, os.Getenv(stuckAtEnd) != ""))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// getStuck serves a FUSE file system up to the first question about a name, which
// it asks itself and never answers; or with one file, which nobody reads before
// the end.
func getStuck(dir string, atEnd bool) error {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Mount("stuck", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev)); err != nil {
		return err
	}
	question := make([]byte, 64<<10)
	go func() {
		if err := use(filepath.Join(dir, "name"), atEnd); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}()
	for {
		if _, err := unix.Read(dev, question); err != nil {
			return err
		}
		operation := binary.NativeEndian.Uint32(question[4:])
		if operation == 1 && !atEnd { // FUSE_LOOKUP
			fmt.Println("stuck")
			select {}
		}
		answer := append(make([]byte, 16), answers[operation]...)
		binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
		if answers[operation] == nil {
			binary.NativeEndian.PutUint32(answer[4:], ^uint32(unix.ENOSYS)+1) // negative
		}
		copy(answer[8:16], question[8:16])
		if _, err := unix.Write(dev, answer); err != nil {
			return err
		}
	}
}

// answers are what follows fuse_out_header (linux/fuse.h), by operation.
var answers = map[uint32][]byte{
	26: words(64, 7, 31, 0, 0, 0, 4096), // fuse_init_out: version 7.31, max_write
	1:  entry(),                         // fuse_entry_out
	14: words(16, 1),                    // fuse_open_out
}

// entry is a file of one page, which is known for good.
func entry() []byte {
	b := make([]byte, 128)
	b[0], b[40] = 2, 2                          // its node
	b[16], b[24] = 99, 99                       // seconds that it is known for
	binary.NativeEndian.PutUint64(b[48:], 4096) // size
	binary.NativeEndian.PutUint32(b[100:], unix.S_IFREG|0o666)
	return b
}

func words(size int, of ...uint32) []byte {
	var b []byte
	for _, w := range of {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return append(b, make([]byte, size-len(b))...)
}

func use(name string, atEnd bool) error {
	if !atEnd {
		return unix.Stat(name, new(unix.Stat_t))
	}
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	page, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	// The kernel reads this list of a thread when the thread ends: get_robust_list(2).
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, uintptr(unsafe.Pointer(&page[0])), 24, 0); errno != 0 {
		return errno
	}
	fmt.Println("stuck")
	select {}
}

// stuck starts a process that cannot be killed, in a mount namespace of its own.
func stuck(t *testing.T, how ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0])
	cmd.Env = append(append(os.Environ(), how...), stuckIn+"="+t.TempDir())
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

// dies tells when a process that is killed is gone.
func dies(cmd *exec.Cmd, kill func() error) (gone chan struct{}) {
	gone = make(chan struct{})
	go func() { _ = kill(); _ = cmd.Wait(); close(gone) }()
	return gone
}

func within(limit time.Duration, gone chan struct{}) bool {
	select {
	case <-gone:
		return true
	case <-time.After(limit):
		return false
	}
}

// isStuck is what noded asks of a job that has this one process.
func isStuck(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	old := cgroup.Root
	cgroup.Root = t.TempDir()
	defer func() { cgroup.Root = old }()
	user := cgroup.Root + "/scope/job_7/step_batch/user"
	if err := os.MkdirAll(user, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(user+"/cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	is, err := cgroup.Job{Scope: "/scope", ID: 7}.Stuck()
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// Of each of these processes, Go's, the first thread dies with the kill.
func TestAProcessThatWaitsForItselfGoesAndOthersFileSystemsStay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to mount and to abort")
	}
	for _, c := range []struct {
		name string
		how  []string
		both bool // the other process, too, is killed
	}{
		{"beside a living one", nil, false},
		{"beside one whose first thread is dead", nil, true},
		{"as it ends", []string{stuckAtEnd + "=1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) { goes(t, c.how, c.both) })
	}
}

func goes(t *testing.T, how []string, both bool) {
	dir, group := newGroup(t)
	other, mine := stuck(t), stuck(t, how...)
	its, others := connectionOf(t, mine), connectionOf(t, other)
	if isStuck(t, mine) {
		t.Error("a process that nobody killed is taken for stuck")
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(mine.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	var otherGone chan struct{}
	if both {
		otherGone = dies(other, other.Process.Kill)
	}
	t.Cleanup(func() {
		if otherGone == nil {
			otherGone = dies(other, other.Process.Kill)
		}
		if _, err := abort(func(c string) bool { return c == its || c == others }); err != nil || !within(10*time.Second, otherGone) {
			t.Errorf("the other process stays: %v", err)
		}
	})
	// As noded does it, which leaves no signal for the process as a whole.
	gone := dies(mine, func() error { return os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) })
	if within(300*time.Millisecond, gone) {
		t.Fatal("the process could be killed: the test shows nothing")
	}
	for deadline := time.Now().Add(10 * time.Second); !isStuck(t, mine); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("it is not taken for stuck")
			break
		}
	}
	aborted, err := AbortAll(group)
	if err != nil || !slices.Contains(aborted, its) || slices.Contains(aborted, others) {
		t.Errorf("aborted %q, %v, want %s and not %s", aborted, err, its, others)
	}
	if !within(10*time.Second, gone) {
		t.Error("the process is still there")
	}
}

func TestAThreadThatEndedMeanwhileDoesNotSpeakForItsNamespace(t *testing.T) {
	old := proc
	proc = t.TempDir()
	t.Cleanup(func() { proc = old })
	const mounts = "31 22 0:41 / /m rw - fuse.sshfs x rw,user_id=0\n"
	for thread, mountinfo := range map[string]string{"5/task/5": "", "5/task/6": mounts, "7/task/7": strings.ReplaceAll(mounts, "41", "42")} {
		dir := filepath.Join(proc, thread)
		if err := os.MkdirAll(dir+"/ns", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("mnt:[1]", dir+"/ns/mnt"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/cgroup", []byte("0::/other\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if mountinfo == "" {
			continue
		}
		if err := os.WriteFile(dir+"/mountinfo", []byte(mountinfo), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The third is not asked, for the second has shown the namespace.
	inJob := func(thread string) (bool, error) { return isIn(thread, "/job") }
	if found, err := seen(inJob, func(uint32) bool { return false }); err != nil || len(found) != 1 || !found["41"] {
		t.Errorf("seen %v, %v", found, err)
	}
}

func TestAFileSystemIsAPersonsByItsOptionsNotByItsName(t *testing.T) {
	for after, want := range map[string]bool{
		"fuse.sshfs x rw,user_id=2001,group_id=2001":  true,
		"fuse.x user_id=0 rw,user_id=2001,group_id=0": true,
		"fuse.x user_id=2001 rw,user_id=0,group_id=0": false,
		"fuse.x x rw,user_id=-1":                      false,
		"fuse.x x rw":                                 false,
		"fuse.x":                                      false,
	} {
		if uid, ok := userID(after); (ok && uid == 2001) != want {
			t.Errorf("%q: %d, %v", after, uid, ok)
		}
	}
}

// People's processes see their own; what a person mounted with the help of
// fusermount others see too.
func TestOfPeoplesFileSystemsNoneIsSpared(t *testing.T) {
	old := proc
	proc = t.TempDir()
	t.Cleanup(func() { proc = old })
	thread := func(number, uid, mountinfo string) {
		dir := filepath.Join(proc, number, "task", number)
		if err := os.MkdirAll(dir+"/ns", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("mnt:["+number+"]", dir+"/ns/mnt"); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"status": "Name:\tx\nUid:\t" + uid + "\t0\t0\t0\n", "mountinfo": mountinfo} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	mount := func(device, options string) string {
		return "31 22 " + device + " / /m rw - fuse.x x rw," + options + "\n"
	}
	thread("1", "0", mount("0:41", "user_id=0")+mount("0:42", "user_id=2001"))
	thread("5", "2001", mount("0:43", "user_id=0"))
	person := func(uid uint32) bool { return uid == 2001 }
	found, err := seen(func(thread string) (bool, error) {
		uid, err := uidOf(thread)
		return person(uid), err
	}, person)
	if err != nil || len(found) != 1 || !found["41"] {
		t.Errorf("spared %v, %v", found, err)
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
