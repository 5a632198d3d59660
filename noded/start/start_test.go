package start

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/noded/audit"

	"github.com/coreos/go-systemd/v22/journal"
)

func TestANodesDrainAndItsReasonAreReadFromScontrolsLine(t *testing.T) {
	for line, want := range map[string]struct {
		drained bool
		reason  string
	}{
		"NodeName=s2 Arch=x86_64 State=IDLE+DRAIN ThreadsPerCore=1 Reason=cloister: a mess, see cloister node status [root@2026-11-26T01:00:00]\n": {true, "cloister: a mess, see cloister node status"},
		"NodeName=s2 State=DOWN+DRAIN+NOT_RESPONDING Reason=disk [2] is bad [admin@2026-11-26T01:00:00]":                                           {true, "disk [2] is bad"},
		"NodeName=s2 State=IDLE ThreadsPerCore=1 Reason=State=DRAIN [root@2026-11-26T01:00:00]":                                                    {false, ""},
		"NodeName=s2 State=IDLE+DRAIN ThreadsPerCore=1":                                                                                            {true, ""},
	} {
		drained, reason, err := drain(line)
		if err != nil || drained != want.drained || reason != want.reason {
			t.Errorf("%s: %v, %q, %v", line, drained, reason, err)
		}
	}
	if _, _, err := drain("Node s2 not found"); err == nil {
		t.Error("what tells no state is no error")
	}
}

func TestTheJournalHasEveryFieldOfARecordAndOneLineForAPerson(t *testing.T) {
	step, uid, task := uint32(0), uint32(0), uint32(0)
	r := audit.Record{Seq: 3, Entry: audit.Entry{
		Event: audit.Trouble, Incident: audit.StepRefused, Session: strings.Repeat("a", 32), Job: 7, Step: &step, Task: &task, Attempt: 2, UID: &uid, User: "alice",
		Phase: "admit", Outcome: audit.Failed, Took: 1.5, Detail: "no proof", More: 2,
	}}
	h := audit.Head{Seq: 3, Hash: strings.Repeat("b", 64)}
	want := map[string]string{
		"CLOISTER_EVENT": "incident", "CLOISTER_INCIDENT": "step-refused", "CLOISTER_SESSION": r.Session, "CLOISTER_JOB": "7", "CLOISTER_STEP": "0", "CLOISTER_TASK": "0", "CLOISTER_ATTEMPT": "2",
		"CLOISTER_UID": "0", "CLOISTER_USER": "alice", "CLOISTER_PHASE": "admit", "CLOISTER_OUTCOME": "failed", "CLOISTER_TOOK_MS": "1.5",
		"CLOISTER_DETAIL": "no proof", "CLOISTER_MORE": "2", "CLOISTER_HEAD": h.String(),
	}
	if got := fields(r, h); !maps.Equal(got, want) {
		t.Errorf("fields %v, want %v", got, want)
	}
	if got := message(r); got != "incident: a step was started into a secure job, or before its script, job 7.0, task 0, attempt 2 of alice, 1.5 ms, failed, and 2 more like it: no proof" {
		t.Errorf("message %q", got)
	}
	if got := message(audit.Record{Entry: audit.Entry{Event: audit.Undone, Phase: "unlock", Job: 7, User: "alice"}}); got != "unlock undone, job 7 of alice" {
		t.Errorf("message %q", got)
	}
	// What could not be written to the file has no head.
	if got := slices.Sorted(maps.Keys(fields(audit.Record{Entry: audit.Entry{Event: audit.NodeStarted}}, audit.Head{}))); !slices.Equal(got, []string{"CLOISTER_EVENT"}) {
		t.Errorf("fields %v", got)
	}
}

func TestWhatMattersMostIsLoudest(t *testing.T) {
	for want, e := range map[journal.Priority]audit.Entry{
		journal.PriAlert: {Event: audit.Fenced}, journal.PriCrit: {Event: audit.Trouble}, journal.PriErr: {Event: audit.Undone, Outcome: audit.Failed},
		journal.PriWarning: {Event: audit.Refused}, journal.PriInfo: {Event: audit.Admitted},
	} {
		if got := priority(audit.Record{Entry: e}); got != want {
			t.Errorf("%s has priority %d, want %d", e.Event, got, want)
		}
	}
}

func TestTheLogLevelIsReadStrictly(t *testing.T) {
	for _, good := range []string{"", "debug", "info", "warn", "error"} {
		t.Setenv(levelName, good)
		if _, err := newLog(); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"loud", "DEBUG", "fatal", " info"} {
		t.Setenv(levelName, bad)
		if _, err := newLog(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestTheBootIDIsTheKernels(t *testing.T) {
	if id, err := bootID("/proc/sys/kernel/random/boot_id"); err != nil || len(id) != 32 {
		t.Errorf("%q, %v", id, err)
	}
	file := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := bootID(file); err == nil {
		t.Errorf("%q", id)
	}
}
