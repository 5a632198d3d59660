package noded

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"cloister/noded/audit"
	"cloister/noded/cgroup"
	"cloister/policy"

	"golang.org/x/sys/unix"
)

// lockedKeyring keeps everybody out of a user's keyring, until the next boot.
func lockedKeyring(t *testing.T, uid uint32) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is the user's, and ends here
		u := uintptr(uid)
		if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); err != 0 {
			done <- err
			return
		}
		done <- unix.KeyctlSetperm(unix.KEY_SPEC_USER_KEYRING, 0)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// cgroups is an empty hierarchy for the test.
func cgroups(t *testing.T) {
	t.Helper()
	old := cgroup.Root
	cgroup.Root = t.TempDir()
	t.Cleanup(func() { cgroup.Root = old })
}

func TestAKeyringThatItsUserLockedIsAnIncidentAndNoFailedUndo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to act as a user")
	}
	cgroups(t)
	d, h, _ := recording(t, policy.OnDemand)
	l := withSession(t, d)
	l.record.UID = 2_000_000_000 + uint32(time.Now().UnixMilli()%100_000_000) // another with each run
	l.record.GID, l.record.User = l.record.UID, "alice"
	lockedKeyring(t, l.record.UID)
	steps := d.steps(l, nil)
	if err := steps[len(steps)-1].Undo(t.Context()); err != nil {
		t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.all[len(h.all)-2]; r.Incident != audit.KeysKept || r.User != "alice" || r.Job != 7 || !strings.Contains(r.Detail, "the user keyring") {
		t.Errorf("it is recorded as %+v", r)
	}
}
