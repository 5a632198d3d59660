//go:build !guest

package lockdown

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A record is what a watch reported.
type record struct {
	mu   sync.Mutex
	said []string
}

func (r *record) report(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, s)
}

func (r *record) says(word string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.said, func(s string) bool { return strings.Contains(s, word) })
}

// within waits until something holds.
func within(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// watched closes the doors and has them watched until the test ends.
func watched(t *testing.T, f *fakeInit, d Doors) (*record, DoorState, <-chan error) {
	t.Helper()
	s := survey(t, d)
	if err := d.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	var r record
	ctx, cancel := context.WithCancel(context.Background())
	failed, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		failed <- d.Watch(ctx, r.report)
	}()
	t.Cleanup(func() { cancel(); <-done })
	within(t, 5*time.Second, "the watch subscribes", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.calls, "subscribe")
	})
	return &r, s, failed
}

func TestAUnitWhoseGuardIsTakenAwayIsGuardedAgainAndStoppedWithinASecondAndReported(t *testing.T) {
	f, d := debian(t)
	r, s, _ := watched(t, f, d)
	time.Sleep(200 * time.Millisecond) // the first look
	if err := errors.Join(os.Remove(closedFile), os.Remove(guardFile("ssh.service"))); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	delete(f.seen, "ssh.service")
	f.units["ssh.service"].active = "active"
	f.mu.Unlock()
	f.emit("JobRemoved", uint32(7), job, "ssh.service", "done")
	within(t, time.Second, "ssh.service is down and guarded", func() bool {
		shut, err := d.Closed()
		f.mu.Lock()
		defer f.mu.Unlock()
		return shut && err == nil && f.seen["ssh.service"] && f.units["ssh.service"].active == "inactive"
	})
	within(t, time.Second, "a report", func() bool { return r.says("ssh.service runs") && r.says("ssh.service has no guard") })
	if err := d.openAll(soon(t), s); err != nil {
		t.Fatal(err)
	}
	if shut, err := d.Closed(); shut || err != nil {
		t.Error("the doors stay shut after the release", err)
	}
}

func TestALoginDuringASessionIsEndedWithinASecondAndReported(t *testing.T) {
	f, d := debian(t)
	r, _, _ := watched(t, f, d)
	f.mu.Lock()
	f.login("9", 2002, "bob", "")
	f.mu.Unlock()
	f.emitLogin("SessionNew", "9", loginPath+"/session/9")
	within(t, time.Second, "bob is out", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.users) == 0
	})
	within(t, time.Second, "a report", func() bool { return r.says("bob is logged in") })
}

func TestWhatIsNoDoorIsNotLookedAt(t *testing.T) {
	f, d := debian(t)
	_, _, _ = watched(t, f, d)
	time.Sleep(100 * time.Millisecond) // the first look
	f.mu.Lock()
	before := f.looks
	f.mu.Unlock()
	for range 20 {
		f.emit("JobNew", uint32(8), job, "slurmstepd.scope")
		f.emit("UnitNew", "run-r1.service", job)
	}
	time.Sleep(200 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looks != before {
		t.Errorf("%d looks at units because of strange ones", f.looks-before)
	}
}

func TestAWatchWhoseBusHangsUpIsAnErrorAndOneThatIsEndedIsNot(t *testing.T) {
	f, d := debian(t)
	if err := closeDoors(t, d); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := d.Watch(ctx, func(string) {}); err != nil {
		t.Errorf("ended: %v", err)
	}
	_, _, failed := watched(t, f, d)
	f.bus.Process.Kill()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the bus hung up and the watch says nothing")
		}
	case <-time.After(5 * time.Second):
		t.Error("the watch goes on without a bus")
	}
}

func TestADoorThatDoesNotCloseEndsTheWatchWithAnError(t *testing.T) {
	old := doorsPatience
	doorsPatience = 500 * time.Millisecond
	t.Cleanup(func() { doorsPatience = old })
	f, d := debian(t)
	_, _, failed := watched(t, f, d)
	f.mu.Lock()
	delete(f.seen, "ssh.service")
	f.fail = "reload"
	f.deaf = "ssh.service"
	f.mu.Unlock()
	f.emit("UnitFilesChanged")
	select {
	case err := <-failed:
		if err == nil || !strings.Contains(err.Error(), "guards") {
			t.Errorf("the watch ends with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the watch goes on")
	}
}
