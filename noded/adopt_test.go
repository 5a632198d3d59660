package noded

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cloister/noded/lockdown"
	"cloister/noded/replay"
	"cloister/noded/session"
	"cloister/noded/status"
	"cloister/policy"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// newFilter is the packet filter of a network namespace of its own.
func newFilter(t *testing.T) lockdown.Filter {
	t.Helper()
	ns, err := netns.None(), error(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err = netns.New()
	}()
	if <-done; err != nil {
		t.Fatalf("making a network namespace (this test must run as root): %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return lockdown.Filter{NetNS: int(ns)}
}

// filtered is a daemon with a packet filter of its own. The doors and the
// processes are those of the machine that the test runs on: their watches do
// nothing.
func filtered(t *testing.T, class policy.Class) (d *Daemon, dir string) {
	t.Helper()
	d, _, dir = recording(t, class)
	d.slurm = &fakeSlurm{}
	d.filter = newFilter(t)
	d.lock = lockdown.Lock{
		Controllers: []netip.Addr{netip.MustParseAddr("10.9.0.10")}, Clients: []netip.Addr{netip.MustParseAddr("10.9.0.11")},
		SlurmctldPort: 6817, SlurmdPort: 6818, SrunPorts: policy.PortRange{First: 60001, Last: 60100},
	}
	d.watches[watchDoors], d.watches[watchStrangers] = func() {}, func() {}
	t.Cleanup(func() { d.unwatch(watchFilter) })
	return d, dir
}

// unreadable is one whose predecessor left a journal entry that it cannot read.
func unreadable(t *testing.T, class policy.Class) (d *Daemon, entry string, memory chan struct{}) {
	t.Helper()
	d, dir := filtered(t, class)
	memory = make(chan struct{})
	d.memory = func(ctx context.Context, _ func(string)) error {
		close(memory)
		<-ctx.Done()
		return nil
	}
	t.Cleanup(func() { d.unwatch(watchMemory) })
	entry = filepath.Join(dir, "sessions", strings.Repeat("c", 32)+".json")
	if err := os.WriteFile(entry, []byte(`{"of":"a newer noded"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return d, entry, memory
}

func TestANodeWhoseSessionIsNotKnownIsKeptLockedUntilItIsRecovered(t *testing.T) {
	for _, class := range []policy.Class{policy.OnDemand, policy.Dedicated} {
		t.Run(string(class), func(t *testing.T) {
			d, entry, memory := unreadable(t, class)
			// A dedicated node is locked at noded's start, for login nodes to reach it.
			if err := d.filter.Apply(t.Context(), d.lock); err != nil {
				t.Fatal(err)
			}
			if err := d.Recover(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if s := d.Status(); s.State != "fenced" {
				t.Errorf("the node is %s", s.State)
			}
			holds := func() bool { return d.filter.Check(t.Context(), d.lock.InSession()) == nil }
			if !holds() {
				t.Error("login nodes reach it")
			}
			if err := d.filter.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			until(t, "the packet filter is put back", holds)
			until(t, "swap and core dumps are watched", func() bool {
				select {
				case <-memory:
					return true
				default:
					return false
				}
			})
			if r := d.Retry(t.Context()); r.Recovered || !holds() {
				t.Errorf("recovered, or opened, while nobody knows the session: %+v", r)
			}
			if class == policy.Dedicated {
				return // it would close the doors of this machine
			}
			if err := os.Remove(entry); err != nil {
				t.Fatal(err)
			}
			r := d.Retry(t.Context())
			if there, err := d.filter.Exists(); !r.Recovered || there || err != nil {
				t.Errorf("not opened: %+v, %v", r, err)
			}
			for _, w := range []string{watchFilter, watchDoors, watchStrangers, watchMemory} {
				if d.watching(w) {
					t.Errorf("%s: still watched on an open node", w)
				}
			}
		})
	}
}

func TestANodeThatNobodyLockedIsNotLockedForAJournalThatCannotBeRead(t *testing.T) {
	d, _, _ := unreadable(t, policy.OnDemand)
	if err := d.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if there, err := d.filter.Exists(); there || err != nil || d.watching(watchMemory) || d.Status().State != "fenced" {
		t.Errorf("a table: %v, %v; %+v", there, err, d.Status())
	}
}

func TestALockThatIsLeftWithoutASessionIsUndone(t *testing.T) {
	t.Run("at the start", func(t *testing.T) {
		d, _ := filtered(t, policy.OnDemand)
		if err := d.filter.Apply(t.Context(), d.lock.InSession()); err != nil {
			t.Fatal(err)
		}
		if err := d.Recover(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if there, err := d.filter.Exists(); there || err != nil || d.Status().State != "in-service" {
			t.Errorf("a table: %v, %v; %+v", there, err, d.Status())
		}
	})
	t.Run("of a node that was given up, when it is recovered", func(t *testing.T) {
		d, entry, _ := unreadable(t, policy.OnDemand)
		if err := d.filter.Apply(t.Context(), d.lock.InSession()); err != nil {
			t.Fatal(err)
		}
		if err := d.Recover(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(entry); err != nil {
			t.Fatal(err)
		}
		next, _ := filtered(t, policy.OnDemand) // noded is started anew
		next.runDir, next.filter = d.runDir, d.filter
		d.unwatch(watchFilter)
		next.loadFence()
		if err := next.Recover(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if there, err := next.filter.Exists(); !there || err != nil || !next.watching(watchFilter) {
			t.Errorf("a table: %v, %v; watched: %v", there, err, next.watching(watchFilter))
		}
		next.unwatch(watchFilter)
		r := next.Retry(t.Context())
		if there, err := next.filter.Exists(); !r.Recovered || there || err != nil {
			t.Errorf("not opened: %+v, %v", r, err)
		}
	})
}

// impatient has noded wait for nothing at its start.
func impatient(t *testing.T) {
	t.Helper()
	old := startLimit
	startLimit = 20 * time.Millisecond
	t.Cleanup(func() { startLimit = old })
}

// hungBus is a machine whose system bus takes connections and says nothing.
func hungBus(t *testing.T) {
	t.Helper()
	impatient(t)
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
}

func TestANodeWhoseDoorsCannotBeReachedStillRecoversWhatWasLeft(t *testing.T) {
	for _, class := range []policy.Class{policy.OnDemand, policy.Dedicated} {
		t.Run(string(class), func(t *testing.T) {
			hungBus(t)
			d, dir := filtered(t, class)
			var err error
			if d.replay, err = replay.Open(filepath.Join(dir, "jobs")); err != nil {
				t.Fatal(err)
			}
			r := &session.Record{ID: strings.Repeat("c", 32), Begun: []string{stepLock}}
			if err := d.journal.Save(r); err != nil {
				t.Fatal(err)
			}
			started := make(chan error, 1)
			go func() { started <- d.Start(t.Context()) }()
			select {
			case err := <-started:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("noded waits for the bus")
			}
			until(t, "the node is drained if it is dedicated", func() bool {
				return strings.HasPrefix(d.slurm.(*fakeSlurm).said(), "cloister: a dedicated node could not be locked") == d.dedicated()
			})
			if s := d.Status(); (s.State == "fenced") != d.dedicated() {
				t.Errorf("the node is %s", s.State)
			}
			if err := d.Recover(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if left, err := d.journal.Load(); err != nil || len(left) > 0 {
				t.Errorf("left is %v, %v", left, err)
			}
		})
	}
}

// A session that is adopted on a node whose packet filter fails must not go on.
func TestASessionThatCannotBeLockedInAnyMoreIsEndedAndTheNodeGivenUp(t *testing.T) {
	cgroups(t)
	d, _ := filtered(t, policy.OnDemand)
	d.filter = lockdown.Filter{NetNS: 1 << 30} // no descriptor has that number
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1]) // slurmstepd, which says nothing
	nobodys := 2_000_000_000 + uint32(time.Now().UnixMilli()%100_000_000)
	r := &session.Record{ID: strings.Repeat("c", 32), Job: 7, UID: nobodys, GID: nobodys, User: "alice", Begun: []string{stepRun}}
	if err := d.journal.Save(r); err != nil {
		t.Fatal(err)
	}
	if err := d.Recover(t.Context(), []*os.File{os.NewFile(uintptr(pair[0]), keptLifeline)}); err != nil {
		t.Fatal(err)
	}
	// Its slurmstepd has killLimit to say something.
	for limit := time.Now().Add(6 * killLimit); ; time.Sleep(50 * time.Millisecond) {
		left, err := d.journal.Load()
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("the session goes on: %v, %v", left, err)
		}
	}
	if s := d.Status(); s.State != "fenced" {
		t.Errorf("the node is %s", s.State)
	}
}

// withoutBus is a machine with no system bus.
func withoutBus(t *testing.T) {
	impatient(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
}

func TestADedicatedNodeIsNotReachedFromLoginNodesBeforeItsSessionsAreUndone(t *testing.T) {
	for name, c := range map[string]struct {
		left  *session.Record
		stays bool // as in a session
	}{
		"no session":                  {},
		"one that was not locked yet": {left: &session.Record{}},
		"one that cannot be undone":   {left: &session.Record{Begun: []string{stepLock, stepView}}, stays: true},
		"one that had the node":       {left: &session.Record{Begun: []string{stepLock}}},
	} {
		t.Run(name, func(t *testing.T) {
			withoutBus(t)
			d, dir := filtered(t, policy.Dedicated)
			var err error
			if d.replay, err = replay.Open(filepath.Join(dir, "jobs")); err != nil {
				t.Fatal(err)
			}
			if c.stays {
				d.systemd = deafSystemd{}
			}
			if c.left != nil {
				c.left.ID = strings.Repeat("c", 32)
				if err := d.journal.Save(c.left); err != nil {
					t.Fatal(err)
				}
			}
			narrow := func() bool { return d.filter.Check(t.Context(), d.lock.InSession()) == nil }
			if err := d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if narrow() != (c.left != nil) || !narrow() && d.filter.Check(t.Context(), d.lock) != nil {
				t.Errorf("after the start login nodes are kept out: %v", narrow())
			}
			if err := d.Recover(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if narrow() != c.stays || !c.stays && d.filter.Check(t.Context(), d.lock) != nil {
				t.Errorf("in the end login nodes are kept out: %v", narrow())
			}
		})
	}
}

// deafSystemd keeps what it is to forget, so that no view is undone.
type deafSystemd struct{ noSystemd }

func (deafSystemd) Forget(string) error { return errors.New("no buffer space") }

// slowSystemd says that it is to forget something, and waits until it may.
type slowSystemd struct {
	noSystemd
	asked, may chan struct{}
}

func (s slowSystemd) Forget(string) error {
	select {
	case s.asked <- struct{}{}:
	case <-s.may:
	}
	<-s.may
	return nil
}

func TestWhileWhatWasLeftIsUndoneTheNodeIsTakenAndNobodyElseUndoesIt(t *testing.T) {
	withoutBus(t)
	d, dir := filtered(t, policy.OnDemand)
	var err error
	if d.replay, err = replay.Open(filepath.Join(dir, "jobs")); err != nil {
		t.Fatal(err)
	}
	s := slowSystemd{asked: make(chan struct{}), may: make(chan struct{})}
	d.systemd = s
	if err := d.journal.Save(&session.Record{ID: strings.Repeat("c", 32), Job: 7, User: "alice", Begun: []string{stepView}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	answers := make(chan *status.Recovery, 2)
	for _, ask := range []func(context.Context) *status.Recovery{d.Retry, d.Release} { // before it is known whether it goes on
		go func() { answers <- ask(t.Context()) }()
	}
	recovered := make(chan error, 1)
	go func() { recovered <- d.Recover(t.Context(), nil) }()
	<-s.asked
	if st := d.Status(); st.Session == nil || st.Session.Job != 7 || st.Session.User != "alice" || st.Session.Phase != stepView {
		t.Errorf("the node says that it has %+v", st.Session)
	}
	select {
	case r := <-answers:
		t.Errorf("answered meanwhile: %+v", r)
	case <-s.asked:
		t.Error("undone twice at once")
	case <-time.After(100 * time.Millisecond):
	}
	close(s.may)
	if err := <-recovered; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r := <-answers; !r.Recovered {
			t.Errorf("in the end: %+v", r)
		}
	}
	if st := d.Status(); st.Session != nil {
		t.Errorf("in the end the node has %+v", st.Session)
	}
}
