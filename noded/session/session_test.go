package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const testID = "0123456789abcdef0123456789abcdef"

// trace makes steps that log what is done and undone, and fail where told.
type trace struct {
	log      []string
	failDo   string
	failUndo map[string]int // name -> how many tries fail
}

func (tr *trace) steps(names ...string) []Step {
	var steps []Step
	for _, n := range names {
		steps = append(steps, Step{
			Name: n,
			Do: func(context.Context, Saver) error {
				tr.log = append(tr.log, "+"+n)
				if n == tr.failDo {
					return errors.New("no")
				}
				return nil
			},
			Undo: func(context.Context) error {
				if tr.failUndo[n] > 0 {
					tr.failUndo[n]--
					return errors.New("busy")
				}
				tr.log = append(tr.log, "-"+n)
				return nil
			},
		})
	}
	return steps
}

func newJournal(t *testing.T) *Journal {
	t.Helper()
	j, err := OpenJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestAFailedStepIsUndoneTogetherWithAllBeforeItAndLeavesNoJournal(t *testing.T) {
	j, tr := newJournal(t), &trace{failDo: "unlock"}
	err := Run(context.Background(), j, &Record{ID: testID}, tr.steps(Lock, "unlock", "view"))
	var se *StepError
	if !errors.As(err, &se) || se.Step != "unlock" {
		t.Fatalf("error %v does not name the step", err)
	}
	if want := []string{"+lock", "+unlock", "-unlock", "-lock"}; !slices.Equal(tr.log, want) {
		t.Fatalf("did %v, want %v", tr.log, want)
	}
	if left, err := j.Load(); err != nil || len(left) != 0 {
		t.Fatalf("journal holds %v, %v", left, err)
	}
}

func TestTheLockStaysWhenALaterUndoFails(t *testing.T) {
	j, r := newJournal(t), &Record{ID: testID}
	tr := &trace{failUndo: map[string]int{"unlock": undoTries}}
	steps := tr.steps(Lock, "unlock", "view")
	if err := Run(context.Background(), j, r, steps); err != nil {
		t.Fatal(err)
	}
	var fence *FenceError
	if err := Undo(j, r, steps); !errors.As(err, &fence) {
		t.Fatalf("got %v, want a FenceError", err)
	}
	if slices.Contains(tr.log, "-lock") {
		t.Fatal("the node was opened while a volume could not be closed")
	}
	// A successor finds in the journal what is left, and finishes.
	left, err := j.Load()
	if err != nil || len(left) != 1 || !slices.Equal(left[0].Begun, []string{Lock, "unlock"}) {
		t.Fatalf("journal holds %+v, %v", left, err)
	}
	if err := Undo(j, left[0], steps); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(tr.log, "-lock") {
		t.Fatal("the node stayed locked after it was clean")
	}
}

func TestAnUndoThatFailsOnceIsTriedAgain(t *testing.T) {
	j, r := newJournal(t), &Record{ID: testID}
	tr := &trace{failUndo: map[string]int{"unlock": undoTries - 1}}
	steps := tr.steps("unlock")
	if err := Run(context.Background(), j, r, steps); err != nil {
		t.Fatal(err)
	}
	if err := Undo(j, r, steps); err != nil {
		t.Fatal(err)
	}
}

func TestAJournalThatCannotBeWrittenForAMomentFencesNothing(t *testing.T) {
	j, r, tr := newJournal(t), &Record{ID: testID}, &trace{}
	steps := tr.steps(Lock, "unlock")
	if err := Run(context.Background(), j, r, steps); err != nil {
		t.Fatal(err)
	}
	undo := steps[1].Undo
	steps[1].Undo = func(ctx context.Context) error {
		if err := os.Rename(j.dir, j.dir+".away"); err != nil {
			t.Error(err)
		}
		time.AfterFunc(undoPause/2, func() { os.Rename(j.dir+".away", j.dir) })
		return undo(ctx)
	}
	if err := Undo(j, r, steps); err != nil {
		t.Fatal(err)
	}
	if left, err := j.Load(); err != nil || len(left) != 0 {
		t.Fatalf("journal holds %v, %v", left, err)
	}
}

func TestAJournalEntryThatCannotBeRemovedFencesTheNode(t *testing.T) {
	j := newJournal(t)
	if err := os.MkdirAll(filepath.Join(j.dir, testID+".json", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var fence *FenceError
	if err := Undo(j, &Record{ID: testID}, nil); !errors.As(err, &fence) {
		t.Fatalf("got %v, want a FenceError", err)
	}
}

func TestACancelledSessionBeginsNoFurtherStep(t *testing.T) {
	j, tr := newJournal(t), &trace{}
	ctx, cancel := context.WithCancel(context.Background())
	steps := tr.steps(Lock, "unlock")
	do := steps[0].Do
	steps[0].Do = func(c context.Context, s Saver) error { cancel(); return do(c, s) }
	if err := Run(ctx, j, &Record{ID: testID}, steps); err == nil {
		t.Fatal("no error")
	}
	if want := []string{"+lock", "-lock"}; !slices.Equal(tr.log, want) {
		t.Fatalf("did %v, want %v", tr.log, want)
	}
}

func TestAStepIsInTheJournalBeforeItIsDone(t *testing.T) {
	j := newJournal(t)
	seen := false
	steps := []Step{{Name: "lock", Do: func(context.Context, Saver) error {
		left, err := j.Load()
		seen = err == nil && len(left) == 1 && slices.Contains(left[0].Begun, "lock")
		return nil
	}, Undo: func(context.Context) error { return nil }}}
	if err := Run(context.Background(), j, &Record{ID: testID}, steps); err != nil || !seen {
		t.Fatalf("seen %v, %v", seen, err)
	}
}

func TestADamagedJournalEntryIsAnErrorAndAnInterruptedWriteIsNot(t *testing.T) {
	j := newJournal(t)
	if err := os.WriteFile(filepath.Join(j.dir, "."+testID+".json123"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if left, err := j.Load(); err != nil || len(left) != 0 {
		t.Fatalf("%v, %v", left, err)
	}
	for _, bad := range []string{"", "{", `{"id":"x"}`, `{"id":"` + testID + `","extra":1}`, `{"id":"` + testID + `"} {}`} {
		if err := os.WriteFile(filepath.Join(j.dir, testID+".json"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Load(); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestARecordSurvivesTheJournal(t *testing.T) {
	j := newJournal(t)
	r := &Record{ID: testID, Job: 7, UID: 2001, User: "alice", Started: time.Now().UTC(), Begun: []string{"lock"}}
	if err := j.Save(r); err != nil {
		t.Fatal(err)
	}
	left, err := j.Load()
	if err != nil || len(left) != 1 || left[0].Job != 7 || !left[0].Started.Equal(r.Started) {
		t.Fatalf("%+v, %v", left, err)
	}
	if err := j.Save(&Record{ID: "../../etc/passwd"}); err == nil {
		t.Fatal("wrote outside the journal")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id":"` + testID + `","begun":["lock"]}`))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseRecord(b) })
}
