package helper

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

type identity struct {
	Status string
	FDs    []string
}

var (
	whoami = Register("test-whoami", func([]byte, []*os.File) (any, []*os.File, error) {
		status, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			return nil, nil, err
		}
		var id identity
		id.Status = string(status)
		dir, err := os.ReadDir("/proc/self/fd")
		for _, e := range dir {
			target, _ := os.Readlink("/proc/self/fd/" + e.Name())
			id.FDs = append(id.FDs, target)
		}
		return id, nil, err
	})
	hang = Register("test-hang", func([]byte, []*os.File) (any, []*os.File, error) {
		select {}
	})
	fail = Register("test-fail", func([]byte, []*os.File) (any, []*os.File, error) {
		return nil, nil, &os.PathError{Op: "open", Path: "/nowhere", Err: syscall.ESTALE}
	})
	echo = Register("test-echo", func(b []byte, files []*os.File) (any, []*os.File, error) {
		return string(b), files, nil
	})
	die = Register("test-die", func([]byte, []*os.File) (any, []*os.File, error) {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	})
)

func TestAHelperHasOnlyTheUsersRightsAndNoInheritedFiles(t *testing.T) {
	secretFile, err := os.CreateTemp(t.TempDir(), "root-only")
	if err != nil {
		t.Fatal(err)
	}
	defer secretFile.Close()
	var id identity
	user := &User{UID: 4711, GID: 4712, Groups: []uint32{4713, 4714}}
	if _, err := whoami.Run(t.Context(), user, nil, nil, &id); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Uid:\t4711\t4711\t4711\t4711", "Gid:\t4712\t4712\t4712\t4712", "Groups:\t4713 4714",
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1",
	} {
		if !strings.Contains(id.Status, want) {
			t.Errorf("no %q in\n%s", want, id.Status)
		}
	}
	for _, fd := range id.FDs {
		if strings.Contains(fd, "root-only") {
			t.Errorf("the helper inherited %s", fd)
		}
	}
}

func TestRootIsRefusedAsAUser(t *testing.T) {
	for _, u := range []*User{{UID: 0, GID: 1}, {UID: 1, GID: 0}} {
		if _, err := whoami.Run(t.Context(), u, nil, nil, nil); err == nil {
			t.Errorf("a helper acted as %+v", u)
		}
	}
}

func TestAHangingHelperIsADeadlineErrorAndIsKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	seen := make(chan bool, 1)
	time.AfterFunc(1500*time.Millisecond, func() { seen <- len(children(t)) > 0 })
	_, err := hang.Run(ctx, nil, nil, nil, nil)
	if !errors.Is(err, ErrDeadline) {
		t.Errorf("error %v does not wrap ErrDeadline", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the caller waited %v", took)
	}
	if !<-seen {
		t.Error("no helper process was seen: this test cannot tell")
	}
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		pids := children(t)
		if len(pids) == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("helper processes left: %v", pids)
		}
	}
}

func TestACancelledCallerIsNotKeptWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	begin := time.Now()
	if _, err := hang.Run(ctx, nil, nil, nil, nil); err == nil || time.Since(begin) > 2*time.Second {
		t.Errorf("error %v after %v", err, time.Since(begin))
	}
}

func TestErrorsComeBackWithTheirErrno(t *testing.T) {
	_, err := fail.Run(t.Context(), nil, nil, nil, nil)
	if !errors.Is(err, syscall.ESTALE) || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("error %v", err)
	}
}

func TestAHelperThatDiesIsAnErrorAtOnce(t *testing.T) {
	begin := time.Now()
	if _, err := die.Run(t.Context(), nil, nil, nil, nil); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("error %v after %v", err, time.Since(begin))
	}
}

func TestFilesPassBothWays(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var said string
	out, err := echo.Run(t.Context(), &User{UID: 4711, GID: 4711}, "hello", []*os.File{w}, &said)
	w.Close()
	if err != nil || len(out) != 1 || said != `"hello"` {
		t.Fatalf("%v, %d files, reply %q", err, len(out), said)
	}
	io.WriteString(out[0], "through")
	out[0].Close()
	got, _ := io.ReadAll(r)
	if string(got) != "through" {
		t.Errorf("read %q", got)
	}
}

func TestOversizedRequestsAreRefused(t *testing.T) {
	if _, err := echo.Run(t.Context(), nil, strings.Repeat("x", MaxMessage), nil, nil); err == nil {
		t.Error("accepted")
	}
}

func TestSparesAreUsedOnceAndReplacedAndADeadOneHarmsNobody(t *testing.T) {
	old := refillPause
	refillPause = 500 * time.Millisecond
	Keep(2)
	t.Cleanup(func() {
		refillPause = old
		Keep(0)
		spares.Lock()
		defer spares.Unlock()
		for _, s := range spares.idle {
			s.conn.Close()
			s.kill()
		}
		spares.idle = nil
	})
	ready := func() bool {
		spares.Lock()
		defer spares.Unlock()
		return len(spares.idle) == 2
	}
	await := func() {
		t.Helper()
		for until := time.Now().Add(refillPause + 5*time.Second); !ready(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("no spares")
			}
		}
	}
	await()
	first := spares.idle[0]
	first.kill()
	time.Sleep(200 * time.Millisecond)
	var one, two identity
	user := &User{UID: 4711, GID: 4712}
	for _, id := range []*identity{&one, &two} {
		if _, err := whoami.Run(t.Context(), user, nil, nil, id); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(id.Status, "Uid:\t4711\t4711\t4711\t4711") || !strings.Contains(id.Status, "NoNewPrivs:\t1") {
			t.Errorf("a spare worked with other rights:\n%s", id.Status)
		}
	}
	pid := func(id identity) string {
		_, rest, _ := strings.Cut(id.Status, "\nPid:")
		rest, _, _ = strings.Cut(rest, "\n")
		return rest
	}
	if pid(one) == pid(two) {
		t.Error("a helper worked twice")
	}
	await()
}

// children lists this process's live children. (/proc/PID/task/TID/children
// needs a kernel option.)
func children(t *testing.T) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Fatalf("no processes found: %v", err)
	}
	var pids []string
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // just ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			pids = append(pids, path)
		}
	}
	return pids
}

func TestAUserNamespaceMapsZeroToTheUserAndNoProcessStaysInIt(t *testing.T) {
	ns, err := UserNamespace(4711, 4712)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if pids := children(t); len(pids) != 0 {
		t.Errorf("processes left: %v", pids)
	}
}
