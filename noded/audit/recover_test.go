package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recovered waits until the log takes records again, and checks the chain and
// what it says of the failure.
func recovered(t *testing.T, l *Log, files int, says string) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); l.State().Failed != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("it did not recover: %v", l.State().Failed)
		}
	}
	if n := l.State().Incidents[RecordsDamaged].All; n != 1 {
		t.Errorf("%d incidents", n)
	}
	add(t, l, session(8)...)
	head := shut(t, l)
	if r := verify(t, l.Dir, &head); len(r.Faults)+len(r.Notes) > 0 || r.Files != files {
		t.Errorf("%+v", r)
	}
	text, err := os.ReadFile(l.file.Name())
	if err != nil || !strings.Contains(string(text), says) {
		t.Errorf("the last file does not say %q (%v):\n%s", says, err, text)
	}
}

func quickly(t *testing.T) {
	old := recoverPause
	recoverPause = time.Millisecond
	t.Cleanup(func() { recoverPause = old })
}

func TestAfterAFlushThatFailedOnceTheChainGoesOnInAnotherFileWithNothingLost(t *testing.T) {
	quickly(t)
	l := open(t, config(t.TempDir()))
	add(t, l, session(7)...)
	l.mu.Lock()
	h := l.head
	l.pending = []Head{h}
	l.fail(errors.New("no flush"))
	l.mu.Unlock()
	if err := l.Wait(t.Context(), h); err == nil {
		t.Error("a record is said to be on the disk whose flush failed")
	}
	recovered(t, l, 2, "no flush; none of the records up to 7 is lost")
}

func TestARecordThatDidNotReachTheDiskIsMissedAndItsNumberIsAnothers(t *testing.T) {
	quickly(t)
	l := open(t, config(t.TempDir()))
	add(t, l, session(7)...)
	if err := l.Wait(t.Context(), l.State().Head); err != nil {
		t.Fatal(err)
	}
	// What a pipe takes is not in the file, and it cannot be flushed.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	l.mu.Lock()
	good := l.file
	l.file = w
	l.mu.Unlock()
	h, err := l.Add(Entry{Event: Admitted})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Wait(t.Context(), h); err == nil {
		t.Error("a record is said to be on the disk whose flush failed")
	}
	if _, err := l.Add(Entry{Event: Admitted}); err == nil {
		t.Error("a record was taken that cannot be kept")
	}
	l.mu.Lock()
	l.file = good
	l.mu.Unlock()
	recovered(t, l, 2, "of the records up to 8 those after 7 are lost or damaged")
	if err := l.Wait(t.Context(), h); !errors.Is(err, errLost) {
		t.Errorf("the lost record's successor was taken for it: %v", err)
	}
}

func TestARecoveryThatFailsLeavesAllAsItWasAndIsTriedAgain(t *testing.T) {
	quickly(t)
	c := config(t.TempDir())
	l := open(t, c)
	add(t, l, session(7)...)
	taken := filepath.Join(c.Dir, fileName(8))
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.fail(errors.New("no flush"))
	l.mu.Unlock()
	time.Sleep(50 * time.Millisecond)
	if s := l.State(); s.Failed == nil || s.Head.Seq != 7 || s.Incidents[RecordsDamaged].All != 0 {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}
	recovered(t, l, 2, "no flush")
}

func TestALogThatCannotRecoverCanBeClosed(t *testing.T) {
	l := open(t, config(t.TempDir()))
	if err := os.WriteFile(filepath.Join(l.Dir, fileName(2)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.fail(errors.New("no flush"))
	l.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
