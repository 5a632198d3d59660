package noded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloister/noded/cgroup"
	"cloister/policy"
)

// drainingSlurm keeps a node's drain, "" for none, and what was done to it.
type drainingSlurm struct {
	countedSlurm
	mu     sync.Mutex
	reason string
	did    []string
	fail   int
	state  string // the job's, "" if slurmctld does not say
	asked  int
}

func (s *drainingSlurm) Job(ctx context.Context, job uint32) (SlurmJob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if _, ok := ctx.Deadline(); !ok || job != 7 || s.state == "" {
		return SlurmJob{}, errors.New("slurmctld does not answer")
	}
	return SlurmJob{State: s.state}, nil
}

// says has slurmctld say that the job is in a state, and waits until it was
// asked.
func (s *drainingSlurm) says(t *testing.T, state string) {
	t.Helper()
	s.mu.Lock()
	s.state = state
	before := s.asked
	s.mu.Unlock()
	until(t, "Slurm is asked again", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.asked > before+2
	})
}

func (s *drainingSlurm) DrainUndrained(_ context.Context, reason string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 {
		s.fail--
		return false, errors.New("slurmctld does not answer")
	}
	if s.reason != "" {
		return false, nil
	}
	s.reason, s.did = reason, append(s.did, "drain")
	return true, nil
}

func (s *drainingSlurm) Resume(_ context.Context, mark string) (bool, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 {
		s.fail--
		return false, "", errors.New("slurmctld does not answer")
	}
	was := s.reason
	if !strings.HasPrefix(was, mark) || was == "" {
		return false, was, nil
	}
	s.reason, s.did = "", append(s.did, "resume")
	return true, was, nil
}

func (s *drainingSlurm) has(reason string, did ...string) func() bool {
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.reason == reason && slices.Equal(s.did, did)
	}
}

// suspendable is a daemon with a session whose tasks freeze as they are told.
func suspendable(t *testing.T, s *drainingSlurm) (d *Daemon, l *live, freeze func(frozen string)) {
	t.Helper()
	cgroups(t)
	oldPause := suspendedPause
	suspendedPause = time.Millisecond
	t.Cleanup(func() { suspendedPause = oldPause })
	user := filepath.Join(cgroup.Root, "slurmstepd.scope/job_7/step_batch/user")
	if err := os.MkdirAll(user, 0o755); err != nil {
		t.Fatal(err)
	}
	freeze = func(frozen string) {
		if err := os.WriteFile(filepath.Join(user, "cgroup.events"), []byte("populated 1\nfrozen "+frozen+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	freeze("0")
	d, _ = idleDaemon(policy.OnDemand)
	d.slurm = s
	l = withSession(t, d)
	l.record.Cgroup = cgroup.Job{Scope: "/slurmstepd.scope", ID: 7}
	return d, l, freeze
}

func TestANodeIsDrainedWhileItsSecureJobIsSuspended(t *testing.T) {
	s := &drainingSlurm{fail: 1, state: "SUSPENDED"}
	d, l, freeze := suspendable(t, s)
	ended := make(chan outcome)
	over := make(chan outcome)
	go func() { over <- d.awaitEnd(l, ended) }()
	time.Sleep(20 * time.Millisecond)
	if !s.has("")() {
		t.Fatalf("without a suspension: %v", s.did)
	}
	freeze("1")
	until(t, "the node is drained", s.has(suspendedReason, "drain"))
	freeze("0")
	until(t, "the node is back", s.has("", "drain", "resume"))
	freeze("1")
	until(t, "the node is drained again", s.has(suspendedReason, "drain", "resume", "drain"))
	ended <- outcome{}
	<-over
	if err := d.holdBack(t.Context(), l, false); err != nil || !s.has("", "drain", "resume", "drain", "resume")() {
		t.Errorf("after the job: %q, %v, %v", s.reason, s.did, err)
	}
}

func TestAnAdministratorsDrainOutlivesASuspension(t *testing.T) {
	s := &drainingSlurm{reason: "broken fan", state: "SUSPENDED"}
	d, l, freeze := suspendable(t, s)
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { d.watchSuspended(ctx, l); close(over) }()
	freeze("1")
	time.Sleep(20 * time.Millisecond)
	freeze("0")
	time.Sleep(20 * time.Millisecond)
	stop()
	<-over
	if !s.has("broken fan")() {
		t.Errorf("it became %q by %v", s.reason, s.did)
	}
}

func TestANodedThatIsRestartedTakesBackWhatItsPredecessorDrained(t *testing.T) {
	s := &drainingSlurm{reason: suspendedReason}
	d, l, _ := suspendable(t, s)
	l.heldBack.Store(true)
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { d.watchSuspended(ctx, l); close(over) }()
	until(t, "the node is back", s.has("", "resume"))
	stop()
	<-over
}

func TestAUserWhoStopsHerOwnJobDrainsNoNode(t *testing.T) {
	s := &drainingSlurm{}
	d, l, freeze := suspendable(t, s)
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { d.watchSuspended(ctx, l); close(over) }()
	freeze("1")
	for _, state := range []string{"RUNNING", "", "STOPPED", "COMPLETING"} {
		if s.says(t, state); !s.has("")() {
			t.Fatalf("a job that Slurm calls %q: %q, %v", state, s.reason, s.did)
		}
	}
	s.says(t, "SUSPENDED")
	until(t, "the node is drained", s.has(suspendedReason, "drain"))
	if s.says(t, ""); !s.has(suspendedReason, "drain")() {
		t.Errorf("when Slurm does not say: %q, %v", s.reason, s.did)
	}
	s.says(t, "RUNNING")
	until(t, "the node is back, though its job stands still", s.has("", "drain", "resume"))
	stop()
	<-over
}

func TestANodeThatSlurmDoesNotTakeBackAtOnceIsBackLater(t *testing.T) {
	quick(t)
	s := &drainingSlurm{reason: suspendedReason, fail: 4}
	d, l, _ := suspendable(t, s)
	l.heldBack.Store(true)
	d.letGo(t.Context(), l)
	until(t, "the node is back", s.has("", "resume"))
}

func TestWhatDrainsTheNodeMeanwhileIsNotTakenBackWithTheSuspension(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, d *Daemon){
		"a newer job is suspended": func(t *testing.T, d *Daemon) {
			newer := newLive(8)
			newer.heldBack.Store(true)
			if !d.take(newer) {
				t.Fatal("the node is taken")
			}
		},
		"the node is given up": func(_ *testing.T, d *Daemon) { d.giveUp("it cannot be kept locked", errors.New("no socket")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &drainingSlurm{reason: suspendedReason, fail: 1}
			s.drained = new(atomic.Int32)
			d, _, _ := recording(t, policy.OnDemand)
			d.slurm = s
			l := newLive(7)
			l.heldBack.Store(true)
			if d.takeBackOnce(t.Context(), l) {
				t.Fatal("it did not try again what failed")
			}
			meanwhile(t, d)
			if !d.takeBackOnce(t.Context(), l) || !s.has(suspendedReason)() {
				t.Errorf("it became %q by %v, or goes on trying", s.reason, s.did)
			}
		})
	}
}

func TestANodedThatFindsNoSessionTakesBackWhatItsPredecessorDrainedForOne(t *testing.T) {
	quick(t)
	s := &drainingSlurm{reason: suspendedReason, fail: 2}
	d, _, _ := recording(t, policy.OnDemand)
	d.slurm = s
	if err := d.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the node is back", s.has("", "resume"))
}
