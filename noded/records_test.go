package noded

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/noded/account"
	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/session"
	"cloister/policy"
	"cloister/sealed"
	"cloister/secret"

	"golang.org/x/sys/unix"
)

// heard is what the journal got.
type heard struct {
	mu  sync.Mutex
	all []audit.Record
}

func (h *heard) events() []audit.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []audit.Event
	for _, r := range h.all {
		all = append(all, r.Event)
	}
	return all
}

func (h *heard) last(t *testing.T) audit.Record {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) == 0 {
		t.Fatal("no record")
	}
	return h.all[len(h.all)-1]
}

// recording is an idle daemon that keeps records, in the directory's audit.
func recording(t *testing.T, class policy.Class) (d *Daemon, h *heard, dir string) {
	t.Helper()
	d, _ = idleDaemon(class)
	h, dir = new(heard), t.TempDir()
	d.runDir = dir
	d.records = audit.Open(audit.Config{Dir: filepath.Join(dir, "audit"), Boot: strings.Repeat("0", 32), Node: "s2", Version: "test", Journal: func(r audit.Record, _ audit.Head) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, r)
	}})
	t.Cleanup(func() { d.records.Close() })
	var err error
	if d.journal, err = session.OpenJournal(filepath.Join(dir, "sessions")); err != nil {
		t.Fatal(err)
	}
	return d, h, dir
}

func TestEachStepAndEachTryToUndoItHasARecordAndAPhase(t *testing.T) {
	d, h, _ := recording(t, policy.OnDemand)
	l := withSession(t, d)
	tries := 0
	steps := d.recorded(l, []session.Step{{
		Name: "unlock",
		Do: func(context.Context, session.Saver) error {
			if p := l.phase.Load(); p == nil || *p != "unlock" {
				t.Error("the phase is not shown while the step is done")
			}
			return nil
		},
		Undo: func(context.Context) error {
			time.Sleep(time.Millisecond)
			if tries++; tries < 3 {
				return errors.New("busy")
			}
			return nil
		},
	}})
	if err := session.Run(t.Context(), d.journal, l.record, steps); err != nil {
		t.Fatal(err)
	}
	if err := session.Undo(d.journal, l.record, steps); err != nil {
		t.Fatal(err)
	}
	want := []audit.Event{audit.Begun, audit.Done, audit.Undone, audit.Undone, audit.Undone}
	if got := h.events(); !slices.Equal(got, want) {
		t.Fatalf("recorded %v, want %v", got, want)
	}
	if r := h.all[2]; r.Outcome != audit.Failed || r.Detail != "busy" || r.Phase != "unlock" || r.Job != 7 || r.Session != l.record.ID {
		t.Errorf("a try that failed is recorded as %+v", r)
	}
	if r := h.all[4]; r.Outcome != audit.OK || r.Took <= 0 {
		t.Errorf("the one that did not as %+v", r)
	}
}

func TestTheRecordsOfARunNameItsTaskAndItsAttempt(t *testing.T) {
	d, h, _ := recording(t, policy.OnDemand)
	request := handoff.Request{Job: 7, UID: 2001, Step: handoff.BatchStep, ArrayJob: 5, ArrayTask: 0}
	names := func(what string, task *uint32, attempt uint32) {
		t.Helper()
		r := h.last(t)
		if (r.Task == nil) != (task == nil) || task != nil && *r.Task != *task || r.Attempt != attempt {
			t.Errorf("%s: task %v, attempt %d in %+v", what, r.Task, r.Attempt, r)
		}
	}
	zero := uint32(0) // the first task of most arrays
	d.noteRefused(&handoff.Conn{Request: request}, nil, "admit", "not sealed")
	names("refused before anything is known of it", &zero, 0)

	l := newLive(7)
	d.take(l)
	a := &admission{request: &request, run: sealed.Run{Task: 0, Attempt: 2}, whole: &sealed.Manifest{}}
	d.noteIncident(audit.Replayed, a.about(), "")
	names("a run that came again", &zero, 2)
	d.begin(l, a.run, &session.Record{ID: strings.Repeat("0", 32), Job: 7})
	d.noteAdmitted(l, time.Now())
	names("admitted", &zero, 2)
	d.noteRefused(&handoff.Conn{Request: request}, l, "keys", "no")
	names("refused later", &zero, 2)
	d.noteJoined(&handoff.Conn{Request: request}, l, "/")
	names("a step", &zero, 2)
	d.incidents(audit.DoorOpened)("sshd")
	names("what happened meanwhile", &zero, 2)
	d.release(l)

	// A noded that is restarted has it from the journal.
	if err := d.journal.Save(&session.Record{ID: strings.Repeat("1", 32), Job: 7, Run: &a.run}); err != nil {
		t.Fatal(err)
	}
	left, err := d.journal.Load()
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	if run := runOf(left[0]); run != a.run {
		t.Errorf("the journal has run %+v, want %+v", run, a.run)
	}

	request.ArrayJob = noVal
	d.note(asked(audit.Refused, &request))
	names("a job that runs once", nil, 0)
	request.ArrayJob, request.ArrayTask = 7, noVal
	d.note(asked(audit.Refused, &request))
	names("its step", nil, 0)
	d.noteReleased(withSession(t, d), time.Now())
	names("its session", nil, 0)
}

// The secrets of a job are at hand wherever a record is made. None takes them.
func TestNoRecordHasASecretOfTheJob(t *testing.T) {
	d, h, dir := recording(t, policy.OnDemand)
	const mark = "hvs.SECRET"
	key := secret.New([]byte(mark))
	a := &admission{
		request:  &handoff.Request{Job: 7, UID: 2001, Step: 3, Arguments: []string{"/spool/script", mark}, Proof: mark},
		user:     account.Account{Name: "alice", UID: 2001},
		manifest: &sealed.Manifest{Job: strings.Repeat("a", 32), Tokens: []string{mark}, Spare: mark, Secrets: []byte(mark), Environment: map[string]string{"TOKEN": mark}},
		script:   []byte(mark),
	}
	l := withSession(t, d)
	l.secrets = &sealed.Secrets{Volumes: []sealed.VolumeSecret{{VolumeKey: key, KeyslotKey: key}}}
	l.why = errors.New("swap is on")
	c := &handoff.Conn{Request: *a.request}
	failed := func(context.Context) error { return errors.New("no") }
	steps := d.recorded(l, []session.Step{{Name: stepKeys, Do: func(ctx context.Context, _ session.Saver) error { return failed(ctx) }, Undo: failed}})
	_ = steps[0].Do(t.Context(), nil)
	_ = steps[0].Undo(t.Context())

	d.note(audit.Entry{Event: audit.NodeStarted})
	d.noteRefused(c, l, "admit", "no")
	d.noteRefused(c, nil, "admit", "no")
	if err := d.awaitRecord(t.Context(), d.noteAdmitted(l, time.Now())); err != nil {
		t.Error(err)
	}
	d.noteRunning(l, time.Now())
	d.noteJoined(c, l, "/data")
	d.noteAdopted(l)
	for _, o := range []outcome{{}, {end: handoff.End{Died: true}}, {err: errors.New("no")}, {end: handoff.End{Status: 9}}} {
		d.noteEnded(l, o)
		l.why = nil
	}
	d.noteReleased(l, time.Now())
	for _, i := range audit.Incidents {
		d.noteIncident(i, a.about(), "found")
		d.incidents(i)("found")
	}
	d.giveUp("a mess", errors.New("busy"))
	d.release(l)
	d.Retry(t.Context())
	d.note(audit.Entry{Event: audit.NodeStopped})

	seen := map[audit.Event]bool{}
	for _, e := range h.events() {
		seen[e] = true
	}
	for _, e := range []audit.Event{audit.NodeStarted, audit.NodeStopped, audit.Fenced, audit.Recovered, audit.Refused, audit.Admitted, audit.Done, audit.Running, audit.Joined, audit.Adopted, audit.Ended, audit.Undone, audit.Released, audit.Trouble, audit.Begun} {
		if !seen[e] {
			t.Errorf("no record of %q was made", e)
		}
	}
	all, err := json.Marshal(h.all)
	if err != nil {
		t.Fatal(err)
	}
	status, err := d.Status().JSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"the journal": all, "the status": status, "the file": onlyFile(t, filepath.Join(dir, "audit"))} {
		if strings.Contains(string(b), mark) || strings.Contains(string(b), "aHZzLlNFQ1JFV") {
			t.Errorf("%s has a secret: %s", name, b)
		}
		if !strings.Contains(string(b), "alice") && name != "the status" {
			t.Errorf("%s lacks the user: nothing was looked at", name)
		}
	}
}

func onlyFile(t *testing.T, dir string) []byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	b, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNoJobRunsWhoseAdmissionCannotBeRecorded(t *testing.T) {
	d, _, _ := recording(t, policy.OnDemand)
	l := withSession(t, d)
	if err := d.records.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.awaitRecord(t.Context(), d.noteAdmitted(l, time.Now())); err == nil {
		t.Error("it runs")
	}
	d.release(l)
	if s := d.Status(); s.State != "unfit" || len(s.Faults) != 1 || !strings.Contains(s.Faults[0], "records cannot be kept") {
		t.Errorf("the node is %s: %v", s.State, s.Faults)
	}
	none, _ := idleDaemon(policy.OnDemand)
	if err := none.awaitRecord(t.Context(), none.noteAdmitted(l, time.Now())); err == nil {
		t.Error("it runs where no records are kept at all")
	}
}

// stuck is a session whose scratch directory cannot be removed.
func stuck(t *testing.T, d *Daemon) (mend func()) {
	t.Helper()
	r := &session.Record{ID: strings.Repeat("b", 32), Job: 9, User: "alice", Begun: []string{stepImage}}
	if err := d.journal.Save(r); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.path("session-"+r.ID), "held")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFencedNodeStaysSoThroughARestartAndIsRecoveredWhenItIsClean(t *testing.T) {
	if unix.Getuid() != 0 {
		t.Fatal("this test unmounts: run it as root")
	}
	d, h, dir := recording(t, policy.OnDemand)
	mend := stuck(t, d)
	slurm := &fakeSlurm{failures: 2, reason: "cloister: x"}
	d.slurm = slurm
	quick(t)
	if err := d.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s := d.Status()
	if s.State != "fenced" || !strings.Contains(s.Fence.Detail, "directory not empty") {
		t.Fatalf("the node is %s: %+v", s.State, s.Fence)
	}
	until(t, "Slurm knows", func() bool { return d.Status().Fence.Drained })
	if !strings.HasPrefix(slurm.said(), "cloister: a secure session could not be undone") {
		t.Errorf("the node is drained with %q", slurm.said())
	}

	again, _, _ := recording(t, policy.OnDemand)
	again.runDir, again.slurm, again.journal = dir, slurm, d.journal
	again.loadFence()
	if s := again.Status(); s.State != "fenced" || s.Fence.Reason != d.Status().Fence.Reason {
		t.Fatalf("after a restart the node is %s", s.State)
	}
	if reason := again.unfit(false); !strings.Contains(reason, "out of service") {
		t.Errorf("a job may be launched on it: %q", reason)
	}
	until(t, "Slurm knows again", func() bool { return again.Status().Fence.Drained })

	r := d.Retry(t.Context())
	if r.Recovered || d.Status().State != "fenced" || slurm.resumed || h.last(t).Outcome != audit.Failed {
		t.Fatalf("recovered while it is not clean: %+v", r)
	}
	mend()
	d.check = func() []string { return []string{"swap is on"} }
	if r := d.Retry(t.Context()); r.Recovered || slurm.resumed {
		t.Fatalf("recovered while it is not fit: %+v", r)
	}
	d.check = func() []string { return nil }
	l := withSession(t, d)
	if r := d.Retry(t.Context()); r.Recovered {
		t.Fatalf("recovered under a session: %+v", r)
	}
	d.release(l)
	stuck := filepath.Join(dir, fenceFile)
	if err := errors.Join(os.Remove(stuck), os.MkdirAll(filepath.Join(stuck, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if r := d.Retry(t.Context()); r.Recovered || d.Status().State != "fenced" || slurm.resumed {
		t.Fatalf("recovered though a noded that is restarted would be fenced: %+v", r)
	}
	if err := os.RemoveAll(stuck); err != nil {
		t.Fatal(err)
	}
	r = d.Retry(t.Context())
	if !r.Recovered || d.Status().State != "in-service" || !slurm.resumed || h.last(t).Event != audit.Recovered {
		t.Fatalf("not recovered though it is clean: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, fenceFile)); err == nil {
		t.Error("a noded that is restarted would fence it again")
	}
	if left, err := d.journal.Load(); err != nil || len(left) > 0 {
		t.Errorf("the journal has %v, %v", left, err)
	}
}

func TestAnAdministratorsDrainStays(t *testing.T) {
	d, _, _ := recording(t, policy.OnDemand)
	slurm := &fakeSlurm{reason: "new disk"}
	d.slurm = slurm
	r := d.Retry(t.Context())
	if !r.Recovered || slurm.resumed || !strings.Contains(r.Next, "scontrol update nodename=s2") {
		t.Errorf("%+v", r)
	}
}

func TestANoteOfAFenceThatCannotBeReadIsAFence(t *testing.T) {
	for _, bad := range []string{"", "{", `{"unknown":1}`} {
		d, _, dir := recording(t, policy.OnDemand)
		d.slurm = &fakeSlurm{}
		if err := os.WriteFile(filepath.Join(dir, fenceFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		d.loadFence()
		if s := d.Status(); s.State != "fenced" {
			t.Errorf("%q: the node is %s", bad, s.State)
		}
	}
}

func TestANodeWhoseRecordsFailForGoodIsGivenUpAndNotRecoveredBeforeTheyAreKept(t *testing.T) {
	look, patience := recordsLook, recordsPatience
	recordsLook, recordsPatience = time.Millisecond, 50*time.Millisecond
	defer func() { recordsLook, recordsPatience = look, patience }()
	d, _, dir := recording(t, policy.OnDemand)
	slurm := &fakeSlurm{}
	d.slurm = slurm
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { d.watchRecords(ctx) })
	defer watching.Wait()
	defer cancel()
	// The directory is gone when the next file is to be begun.
	if err := os.RemoveAll(filepath.Join(dir, "audit")); err != nil {
		t.Fatal(err)
	}
	for d.records.State().Failed == nil {
		d.note(audit.Entry{Event: audit.Done, Detail: strings.Repeat("x", 1000)})
	}
	if s := d.Status(); s.State != "unfit" {
		t.Errorf("at once the node is %s", s.State)
	}
	until(t, "the node is fenced", func() bool { return d.Status().State == "fenced" && d.Status().Fence.Drained })
	if !strings.HasPrefix(slurm.said(), "cloister: records cannot be kept") {
		t.Errorf("the node is drained with %q", slurm.said())
	}
	if r := d.Retry(t.Context()); r.Recovered {
		t.Errorf("recovered: %+v", r)
	}
}

// quick makes Slurm be tried again at once.
func quick(t *testing.T) {
	old := drainPause
	drainPause = time.Millisecond
	t.Cleanup(func() { drainPause = old })
}

// fakeSlurm cannot be reached for some times, and has the node drained for
// reason.
type fakeSlurm struct {
	mu       sync.Mutex
	failures int
	drained  string
	reason   string
	resumed  bool
}

func (s *fakeSlurm) Job(context.Context, uint32) (SlurmJob, error) { return SlurmJob{}, nil }

func (s *fakeSlurm) Drain(_ context.Context, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.failures--
		return errors.New("no controller")
	}
	s.drained = reason
	return nil
}

func (s *fakeSlurm) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained
}

func (s *fakeSlurm) DrainUndrained(context.Context, string) (bool, error) { return false, nil }
func (s *fakeSlurm) Resume(_ context.Context, mark string) (bool, string, error) {
	s.resumed = strings.HasPrefix(s.reason, mark)
	return s.resumed, s.reason, nil
}

func (s *fakeSlurm) Cancel(context.Context, uint32) error { return nil }

// alive counts what systemd hears.
type alive struct {
	noSystemd
	mu sync.Mutex
	n  int
}

func (a *alive) Alive() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
}

func (a *alive) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

func TestTheWatchdogIsFedByProgressAlone(t *testing.T) {
	d, _, _ := recording(t, policy.OnDemand)
	a := new(alive)
	d.systemd = a
	go d.Watchdog(t.Context(), 30*time.Millisecond)
	until(t, "systemd hears that noded is alive", func() bool { return a.count() > 2 })

	starves := func(what string) {
		t.Helper()
		time.Sleep(20 * time.Millisecond) // one may be on its way
		n := a.count()
		time.Sleep(100 * time.Millisecond)
		if a.count() != n {
			t.Errorf("systemd hears that noded is alive though %s", what)
		}
	}
	_, end := d.pulse.Begin(t.Context(), "a loop", 0) // late at once
	starves("a loop does not come round")
	end()
	n := a.count()
	until(t, "it hears again", func() bool { return a.count() > n })
	d.mu.Lock()
	starves("a lock is never given back")
	d.mu.Unlock()
}
