//go:build !guest

package lockdown

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"cloister/policy"
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// debian is a node as Debian sets one up, with somebody logged in.
func debian(t *testing.T) (*fakeInit, Doors) {
	f := newFakeInit(t)
	f.unit("ssh.service", "active")
	f.alias["sshd.service"] = "ssh.service"
	old := unitDirs
	unitDirs = []string{t.TempDir(), t.TempDir()}
	t.Cleanup(func() { unitDirs = old })
	if err := os.Symlink("/usr/lib/systemd/system/ssh.service", unitDirs[1]+"/sshd.service"); err != nil {
		t.Fatal(err)
	}
	f.unit("ssh.socket", "inactive")
	f.unit("cron.service", "active")
	f.unit("atd.service", "inactive")
	f.unit("getty@tty1.service", "active")
	f.triggered("getty@tty1.service")
	f.unit("user@2001.service", "active")
	f.lingers("2001", false)
	f.unit("user@2002.service", "active")
	f.lingers("2002", true)
	f.unit("slurmd.service", "active")
	f.unit("console-getty.service", "inactive")
	f.masks["console-getty.service"] = true
	f.login("4", 2001, "alice", "")
	f.login("7", 0, "root", "seat0")
	d := Doors{Units: policy.DefaultDoors()}
	if err := d.Prepare(soon(t)); err != nil {
		t.Fatal(err)
	}
	f.calls = nil
	return f, d
}

// through writes a state as the journal does and reads it again.
func through(t *testing.T, s DoorState) (out DoorState) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// closeDoors closes them as a session does.
func closeDoors(t *testing.T, d Doors) error {
	t.Helper()
	survey(t, d)
	return d.Close(soon(t))
}

func survey(t *testing.T, d Doors) DoorState {
	t.Helper()
	s, err := d.Survey(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return through(t, s)
}

func TestClosedDoorsCannotBeStartedAndAreDownAndOpenAgainAsTheyWere(t *testing.T) {
	f, d := debian(t)
	ctx, before := soon(t), f.state()
	s := survey(t, d)
	if f.state() != before || len(f.calls) > 0 {
		t.Fatalf("Survey changed the node: %v", f.calls)
	}
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if open, err := d.Check(ctx); err != nil || len(open) > 0 {
		t.Errorf("after Close: %v %v", open, err)
	}
	if f.state() != "slurmd.service=active shut" {
		t.Errorf("runs after Close: %s", f.state())
	}
	if len(f.users) > 0 {
		t.Errorf("still logged in: %v", f.users)
	}
	for _, unit := range []string{"ssh.service", "getty@tty1.service", "user@2002.service"} {
		f.start(unit, "replace")
		if f.units[unit].active != "inactive" {
			t.Errorf("%s could be started", unit)
		}
	}
	f.calls = nil
	if err := d.openAll(ctx, s); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(before, "user@2001.service=active ", "", 1) // it had no login any more
	want = strings.Replace(want, " user@2001.service=active", "", 1)
	if f.state() != want {
		t.Errorf("after Open:\n%s\nwant\n%s", f.state(), want)
	}
	if slices.Contains(f.calls, "reload") {
		t.Error("a session had systemd read its units anew")
	}
	if slices.Contains(f.calls, "start atd.service") || slices.Contains(f.calls, "start ssh.socket") {
		t.Errorf("something was started that had not run: %v", f.calls)
	}
}

func TestADoorThatThePolicyNamesByAnAliasIsClosed(t *testing.T) {
	f, d := debian(t)
	d.Units = []string{"sshd.service", "ssh.socket"}
	if err := closeDoors(t, d); err != nil {
		t.Fatal(err)
	}
	if a := f.units["ssh.service"].active; a != "inactive" {
		t.Errorf("ssh.service is %s", a)
	}
}

func TestClosingAndOpeningTwiceIsAsOnce(t *testing.T) {
	f, d := debian(t)
	ctx := soon(t)
	s := survey(t, d)
	for range 2 {
		if err := d.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var after []string
	for range 2 {
		if err := d.openAll(ctx, s); err != nil {
			t.Fatal(err)
		}
		after = append(after, f.state())
	}
	if after[0] != after[1] {
		t.Errorf("opening twice: %s, then %s", after[0], after[1])
	}
}

func TestACrashAnywhereInCloseIsUndoneByOpen(t *testing.T) {
	for _, crash := range []string{"stop ssh.service", "stop cron.service", "stop user@2002"} {
		f, d := debian(t)
		ctx := soon(t)
		s := survey(t, d)
		f.fail = crash
		if err := d.Close(ctx); err == nil {
			t.Errorf("%s failed and Close did not", crash)
		}
		f.fail = ""
		if err := d.openAll(ctx, s); err != nil {
			t.Errorf("after a crash in %s: %v", crash, err)
		}
		if st := f.state(); !strings.Contains(st, "ssh.service=active") || !strings.Contains(st, "cron.service=active") || strings.Contains(st, "shut") {
			t.Errorf("after a crash in %s: %s", crash, st)
		}
	}
}

func TestOpenWithoutCloseChangesNothing(t *testing.T) {
	f, d := debian(t)
	before := f.state()
	if err := d.openAll(soon(t), survey(t, d)); err != nil {
		t.Fatal(err)
	}
	if f.state() != before {
		t.Errorf("%s became %s", before, f.state())
	}
}

func TestOpenSucceedsWhileTheMachineShutsDownAndStartsNothing(t *testing.T) {
	f, d := debian(t)
	s := survey(t, d)
	if err := d.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	f.fail, f.with = "start", "org.freedesktop.systemd1.TransactionIsDestructive"
	wait, err := d.Open(soon(t), s)
	if err != nil {
		t.Fatalf("systemd starts nothing any more, and the session cannot be undone: %v", err)
	}
	if err := wait(soon(t)); err == nil || !strings.Contains(err.Error(), "ssh.service: it did not start") {
		t.Errorf("nobody is told that a door stays closed: %v", err)
	}
	f.with = ""
	if _, err := d.Open(soon(t), s); err == nil {
		t.Error("another error of systemd's is none")
	}
}

func TestAUnitThatDoesNotStopIsKilled(t *testing.T) {
	f, d := debian(t)
	f.units["cron.service"].stubborn = true
	if err := closeDoors(t, d); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.calls, "kill cron.service") {
		t.Errorf("calls: %v", f.calls)
	}
}

func TestADoorThatSystemdWouldStartAllTheSameIsRefusedBeforeAnythingChanges(t *testing.T) {
	f, d := debian(t)
	f.mu.Lock()
	f.deaf = "ssh.service" // as with a drop-in that has AssertPathExists= alone
	f.mu.Unlock()
	f.reload()
	f.calls = nil
	before := f.state()
	if _, err := d.Survey(soon(t)); err == nil || !strings.Contains(err.Error(), "ssh.service") {
		t.Errorf("Survey: %v", err)
	}
	if f.state() != before || !slices.Equal(f.calls, []string{"reload"}) {
		t.Errorf("Survey did %v", f.calls)
	}
}

func TestAGuardThatIsGoneIsPutBackByTheNextSession(t *testing.T) {
	f, d := debian(t)
	for _, unit := range []string{"ssh.service", "getty@.service"} {
		if err := os.Remove(guardFile(unit)); err != nil {
			t.Fatal(err)
		}
		f.reload()
		survey(t, d)
		if !f.seen[unit] {
			t.Errorf("%s has no guard", unit)
		}
	}
}

func TestADoorThatOpensDuringASessionIsNamed(t *testing.T) {
	f, d := debian(t)
	ctx := soon(t)
	s := survey(t, d)
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.units["ssh.service"].active = "active"
	delete(f.seen, "cron.service")
	f.mu.Unlock()
	if err := errors.Join(os.Remove(closedFile), os.Remove(guardFile("getty@.service"))); err != nil {
		t.Fatal(err)
	}
	open, err := d.Check(ctx)
	if want := []string{"ssh.service runs", closedFile + " is gone", "the guard of getty@.service is gone", "cron.service has no guard"}; err != nil || !slices.Equal(open, want) {
		t.Errorf("%q %v", open, err)
	}
	if err := d.reached(ctx, func(r *Reached) error { return r.closeAgain(ctx) }); err != nil {
		t.Fatal(err)
	}
	if open, err := d.Check(ctx); err != nil || len(open) > 0 {
		t.Errorf("after closing again: %v %v", open, err)
	}
	if err := d.openAll(ctx, s); err != nil {
		t.Fatal(err)
	}
}

func TestWhatASocketStartedForOneConnectionIsNotStartedAgain(t *testing.T) {
	f, d := debian(t)
	f.units["ssh.service"].active = "inactive"
	f.units["ssh.socket"].active = "active"
	f.unit("ssh@1-10.0.0.1:22-10.0.0.2:4000.service", "active")
	f.triggered("ssh@1-10.0.0.1:22-10.0.0.2:4000.service", "ssh.socket")
	ctx := soon(t)
	s := survey(t, d)
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.openAll(ctx, s); err != nil {
		t.Fatal(err)
	}
	if st := f.state(); !strings.Contains(st, "ssh.socket=active") || strings.Contains(st, "ssh@1") || strings.Contains(st, "ssh.service") {
		t.Errorf("after Open: %s", st)
	}
}

func TestAUnitThatDoesNotComeBackIsAnErrorAndTheOthersComeBackAllTheSame(t *testing.T) {
	f, d := debian(t)
	ctx := soon(t)
	s := survey(t, d)
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	f.units["ssh.service"].failing = true
	if err := d.openAll(ctx, s); err == nil || !strings.Contains(err.Error(), "ssh.service") {
		t.Errorf("Open: %v", err)
	}
	if st := f.state(); !strings.Contains(st, "cron.service=active") {
		t.Errorf("after Open: %s", st)
	}
}

func TestRootsConsoleIsSparedOnlyWhereThePolicyLeavesOne(t *testing.T) {
	f, d := debian(t)
	d.KeepConsole = true
	if err := closeDoors(t, d); err != nil {
		t.Fatal(err)
	}
	if len(f.users) != 1 || f.users["7"] == nil {
		t.Errorf("logged in after Close: %v", f.users)
	}
}

func TestOpenWaitsForSystemdToJoinABusThatStartedAnew(t *testing.T) {
	f, d := debian(t)
	s := survey(t, d)
	if err := d.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.ReleaseName(systemdName); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { f.conn.RequestName(systemdName, dbus.NameFlagDoNotQueue) })
	if err := d.openAll(soon(t), s); err != nil {
		t.Fatal(err)
	}
	if st := f.state(); !strings.Contains(st, "ssh.service=active") {
		t.Errorf("after Open: %s", st)
	}
}

func TestDoorsWithoutABusAreAnError(t *testing.T) {
	old := busPatience
	busPatience = 100 * time.Millisecond
	t.Cleanup(func() { busPatience = old })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	d := Doors{Units: policy.DefaultDoors()}
	if _, err := d.Survey(soon(t)); err == nil {
		t.Error("Survey answered")
	}
	if err := d.Close(soon(t)); err == nil {
		t.Error("Close answered")
	}
	if err := d.openAll(soon(t), DoorState{Running: []string{"ssh.service"}}); err == nil {
		t.Error("Open answered")
	}
}

func TestABusThatTakesConnectionsAndSaysNothingIsNotWaitedForForEver(t *testing.T) {
	old := reachLimit
	reachLimit = 50 * time.Millisecond
	t.Cleanup(func() { reachLimit = old })
	path := t.TempDir() + "/bus"
	l, err := net.Listen("unix", path) // the kernel takes connections for it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	d := Doors{Units: policy.DefaultDoors()}
	for name, do := range map[string]func() error{
		"preparing": func() error { return d.Prepare(t.Context()) },
		"watching":  func() error { return d.Watch(t.Context(), func(string) {}) },
	} {
		over := make(chan error, 1)
		go func() { over <- do() }()
		select {
		case err := <-over:
			if err == nil || !strings.Contains(err.Error(), "no answer") {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s waits", name)
		}
	}
}
