package noded

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister/noded/handoff"
	"cloister/noded/session"
	"cloister/policy"

	"go.uber.org/zap"
)

type noSystemd struct{}

func (noSystemd) Status(string)               {}
func (noSystemd) Alive()                      {}
func (noSystemd) Keep(string, *os.File) error { return nil }
func (noSystemd) Forget(string) error         { return nil }

type countedSlurm struct{ drained *atomic.Int32 }

func (s countedSlurm) Drain(context.Context, string) error                  { s.drained.Add(1); return nil }
func (s countedSlurm) DrainUndrained(context.Context, string) (bool, error) { return false, nil }
func (s countedSlurm) Resume(context.Context, string) (bool, string, error) {
	return false, "", nil
}
func (s countedSlurm) Cancel(context.Context, uint32) error { return nil }

func (s countedSlurm) Job(context.Context, uint32) (SlurmJob, error) {
	return SlurmJob{}, errors.New("nobody is to be asked")
}

// idleDaemon is one that has done nothing yet; drained counts its calls for
// help.
func idleDaemon(class policy.Class) (d *Daemon, drained *atomic.Int32) {
	drained = new(atomic.Int32)
	return New(Config{
		Policy: &policy.Policy{Class: class}, Check: func() []string { return nil }, Log: zap.NewNop(), Systemd: noSystemd{}, Node: "s2", RunDir: "/nonexistent",
		Slurm: countedSlurm{drained},
	}), drained
}

// withSession has a session run on it.
func withSession(t *testing.T, d *Daemon) *live {
	t.Helper()
	l := newLive(7)
	if !d.take(l) {
		t.Fatal("the node is taken")
	}
	d.begin(l, onlyRun, &session.Record{ID: strings.Repeat("0", 32), Job: 7})
	return l
}

func isStopped(l *live) bool {
	select {
	case <-l.stopped:
		return true
	case <-time.After(50 * time.Millisecond):
		return false
	}
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func TestAWatchThatBreaksEndsTheSessionAndFencesTheNode(t *testing.T) {
	for _, name := range []string{watchFilter, watchDoors, watchStrangers} {
		d, drained := idleDaemon(policy.OnDemand)
		l := withSession(t, d)
		d.watch(t.Context(), name, func(context.Context) error { return errors.New("no socket") })
		until(t, "the node is drained", func() bool { return drained.Load() == 1 })
		if !isStopped(l) || !strings.Contains(l.why.Error(), name) || !strings.Contains(l.why.Error(), "no socket") {
			t.Errorf("%s: the session goes on, or does not say why: %v", name, l.why)
		}
		if reason := d.unfit(true); !strings.Contains(reason, "out of service") {
			t.Errorf("%s: another session may begin: %q", name, reason)
		}
	}
}

func TestAWatchThatIsEndedEndsNoSession(t *testing.T) {
	d, drained := idleDaemon(policy.OnDemand)
	l := withSession(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	ends := make(chan struct{})
	d.watch(ctx, watchDoors, func(ctx context.Context) error {
		defer close(ends)
		<-ctx.Done()
		return errors.New("interrupted")
	})
	cancel() // the launch that began the watch is over
	select {
	case <-ends:
		t.Fatal("the watch ended with the launch that began it")
	case <-time.After(20 * time.Millisecond):
	}
	d.unwatch(watchDoors, watchFilter)
	select {
	case <-ends:
	default:
		t.Error("unwatch returned before the watcher had")
	}
	if isStopped(l) || drained.Load() != 0 {
		t.Error("an ended watch counts as a broken one")
	}
}

func TestASecondWatchOfTheSameNameIsNotStarted(t *testing.T) {
	d, _ := idleDaemon(policy.Dedicated)
	var started atomic.Int32
	for range 3 {
		d.watch(t.Context(), watchFilter, func(ctx context.Context) error {
			started.Add(1)
			<-ctx.Done()
			return nil
		})
	}
	until(t, "the watch runs", func() bool { return started.Load() > 0 })
	time.Sleep(20 * time.Millisecond)
	if n := started.Load(); n != 1 {
		t.Errorf("%d watches run", n)
	}
	d.unwatch(watchFilter)
}

func TestTheProcessesOfTheSessionAndOfNodedBelongOnALockedNode(t *testing.T) {
	d, _ := idleDaemon(policy.Dedicated)
	if n := len(d.groups()); n != 1 {
		t.Errorf("%d control groups on an idle node", n)
	}
	l := withSession(t, d)
	if g := d.groups(); len(g) != 2 || g[1] != l.record.Cgroup.Path() {
		t.Errorf("control groups during a session: %q", g)
	}
}

func TestTheProcessesOfASessionThatCouldNotBeUndoneAreNoStrangersUntilItIs(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	var err error
	if d.journal, err = session.OpenJournal(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	l := withSession(t, d)
	stuck := errors.New("a process waits for a file server")
	undo := func(context.Context) error { return stuck }
	l.record.Begun = []string{stepRun}
	err = d.undo(l, []session.Step{{Name: stepRun, Undo: undo}})
	if !errors.Is(err, stuck) {
		t.Fatal(err)
	}
	if g := d.groups(); len(g) != 2 {
		t.Errorf("before the node is fenced: %q", g)
	}
	d.fence(err)
	job := l.record.Cgroup.Path()
	d.release(l)
	if g := d.groups(); !slices.Contains(g, job) {
		t.Errorf("%q lacks %s", g, job)
	}
	if !d.take(newLive(0)) { // by cloister node recover
		t.Fatal("the node is taken")
	}
	if g := d.groups(); !slices.Contains(g, job) {
		t.Errorf("%q lacks %s while that is undone", g, job)
	}
	stuck = nil
	if err := session.Undo(d.journal, l.record, []session.Step{{Name: stepRun, Undo: undo}}); err != nil {
		t.Fatal(err)
	}
	if g := d.groups(); len(g) != 1 {
		t.Errorf("when it is undone: %q", g)
	}
}

func TestASessionThatIsEndedByTheNodeWaitsForSlurmstepdToNotice(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	l := withSession(t, d)
	ended := make(chan outcome, 1)
	d.endSession(errors.New("swap is on"))
	d.endSession(errors.New("a second reason"))
	time.AfterFunc(50*time.Millisecond, func() { ended <- outcome{end: handoff.End{Status: 9}} })
	if o := d.awaitEnd(l, ended); o.end.Status != 9 {
		t.Errorf("ended with %+v before slurmstepd said so", o)
	}
	if l.why == nil || l.why.Error() != "swap is on" {
		t.Errorf("ended because of %v", l.why)
	}
}

func TestAUserReadsHowTheScriptEnded(t *testing.T) {
	for want, o := range map[string]outcome{
		"the script ended with exit status 0":                         {},
		"the script ended with exit status 3|next: read what":         {end: handoff.End{Status: 3 << 8}},
		"the script was ended by signal 15 (terminated)|next: read ":  {end: handoff.End{Status: 15}},
		"the script was ended by signal 11 (segmentation fault)|next": {end: handoff.End{Status: 11 | 0x80}}, // with a core dump
		"": {end: handoff.End{Died: true}},
	} {
		if got := strings.Join(o.tell(), "|"); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%+v is told as %q, want %q", o, got, want)
		}
	}
}
