package noded

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cloister/noded/account"
	"cloister/noded/handoff"
	"cloister/noded/session"
	"cloister/policy"
	"cloister/sealed"
	"cloister/volume"
)

// person is the one account with a person's number that every Debian has: nobody.
const person = 65534

// making is a session that makes results volumes in a directory of person's.
func making(t *testing.T, names ...string) (d *Daemon, l *live, a *admission, dir string) {
	t.Helper()
	user, err := account.Lookup(person)
	if err != nil {
		t.Fatal(err)
	}
	dir, err = os.MkdirTemp("/var/tmp", "made") // t.TempDir's parents are root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, person, person); err != nil {
		t.Fatal(err)
	}
	d, _ = idleDaemon(policy.OnDemand)
	d.policy.Volumes.Roots = []string{dir}
	if d.journal, err = session.OpenJournal(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	m := &sealed.Manifest{}
	for _, name := range names {
		m.Volumes = append(m.Volumes, sealed.Volume{Path: name, Mode: sealed.ReadWrite, Create: true, Pinned: volume.Pinned{PayloadOffset: 1 << 20, PayloadSize: 1 << 20}})
	}
	l = newLive(7)
	l.record = &session.Record{ID: strings.Repeat("0", 32), Job: 7, UID: person, GID: user.GID}
	return d, l, &admission{manifest: m, user: user, request: &handoff.Request{Cwd: dir}, volumes: make([]*os.File, len(names))}, dir
}

func TestAVolumeThatCannotBeMadeIsRefusedBeforeTheTokenIsUsed(t *testing.T) {
	d, l, a, dir := making(t, "a.luks", "b.luks")
	if err := d.openFiles(t.Context(), a); err != nil || a.volumes[0] != nil || a.volumes[1] != nil {
		t.Fatalf("both can be made: %v, %v", err, a.volumes)
	}
	theirs := filepath.Join(dir, "b.luks")
	refused := func(err error, next string) {
		t.Helper()
		var known *sealed.Refusal
		if !errors.As(err, &known) || !strings.Contains(known.Cause, theirs) || !strings.HasSuffix(known.Next, next) {
			t.Errorf("got %+v, wanted %q", known, next)
		}
	}
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(d.openFiles(t.Context(), a), "move the old file away and submit again, or seal the script again if it ran before")
	// By one that comes between, the token is used.
	refused(d.makeFiles(t.Context(), l, a, func() error { return nil }), "move the old file away and "+nextSealAgain)
	d.removeFiles(t.Context(), l.record)
	if err := errors.Join(os.Remove(theirs), os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	a.manifest.Volumes = a.manifest.Volumes[1:]
	refused(d.openFiles(t.Context(), a), "the right to write where the job makes this volume and submit again, or seal the script again if it ran before")
	a.manifest.Volumes[0].Path, theirs = "missing/c.luks", filepath.Join(dir, "missing", "c.luks")
	refused(d.openFiles(t.Context(), a), "make the directory in which the job makes this volume and submit again, or seal the script again if it ran before")
}

func TestTheJournalAloneTakesBackTheFilesThatASessionMade(t *testing.T) {
	d, l, a, dir := making(t, "a.luks", "b.luks")
	theirs := filepath.Join(dir, "b.luks")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(theirs, a.manifest.Volumes[1].Pinned.End()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, person, person); err != nil {
		t.Fatal(err)
	}
	saved := 0
	save := func() error { saved++; return d.journal.Save(l.record) }
	if err := d.makeFiles(t.Context(), l, a, save); err == nil || !strings.Contains(err.Error(), syscall.EEXIST.Error()) || saved != 2 {
		t.Fatalf("over a file that is there: %v, saved %d times", err, saved)
	}
	made := filepath.Join(dir, "a.luks")
	if _, err := a.volumes[0].WriteAt([]byte("header"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // by one that finds it in the journal, and again
		records, err := d.journal.Load()
		if err != nil || len(records) != 1 {
			t.Fatal(records, err)
		}
		d.removeFiles(t.Context(), records[0])
		if _, err := os.Stat(made); !os.IsNotExist(err) {
			t.Errorf("what was made: %v", err)
		}
		if _, err := os.Stat(theirs); err != nil {
			t.Errorf("what was there before: %v", err)
		}
	}
}

func TestOneFileThatIsLeftAloneKeepsNoOther(t *testing.T) {
	d, l, a, dir := making(t, "a.luks", "b.luks")
	if err := d.makeFiles(t.Context(), l, a, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	first, second := filepath.Join(dir, "a.luks"), filepath.Join(dir, "b.luks")
	if err := os.Rename(first, first+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, []byte("the user's own"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.removeFiles(t.Context(), l.record)
	if _, err := os.Stat(first); err != nil {
		t.Errorf("the other file of that name: %v", err)
	}
	if _, err := os.Stat(second); !os.IsNotExist(err) {
		t.Errorf("the second that was made: %v", err)
	}
}

func TestNoPathsOfAUsersMakeAJournalThatCannotBeReadAgain(t *testing.T) {
	long := strings.Repeat("<", 200) // JSON writes six bytes for one
	var names []string
	for i := range sealed.MaxVolumes {
		names = append(names, strings.Repeat(long+"/", 18)+string(rune('a'+i)))
	}
	d, l, a, _ := making(t, names...)
	_ = d.makeFiles(t.Context(), l, a, func() error { // none can be made: the directories are not there
		if err := d.journal.Save(l.record); err != nil {
			return err
		}
		_, err := d.journal.Load()
		if err != nil {
			t.Error(err)
		}
		return err
	})
	if len(l.record.Made) != len(names) {
		t.Errorf("%d files of %d were put into the journal", len(l.record.Made), len(names))
	}
	d, l, a, _ = making(t, strings.Repeat(long+"/", 21)+"a")
	save := func() error { t.Error("a path beyond PATH_MAX is put into the journal"); return nil }
	if err := d.makeFiles(t.Context(), l, a, save); err == nil || len(l.record.Made) != 0 {
		t.Errorf("%d files, %v", len(l.record.Made), err)
	}
}

func TestFilesThatTheScriptMayHaveWrittenStay(t *testing.T) {
	d, l, a, dir := making(t, "a.luks")
	if err := d.makeFiles(t.Context(), l, a, func() error { return d.journal.Save(l.record) }); err != nil {
		t.Fatal(err)
	}
	if err := d.leaveFiles(l.record); err != nil {
		t.Fatal(err)
	}
	records, err := d.journal.Load()
	if err != nil {
		t.Fatal(err)
	}
	d.removeFiles(t.Context(), records[0])
	if _, err := os.Stat(filepath.Join(dir, "a.luks")); err != nil {
		t.Error(err)
	}
}

func TestAFileIsInTheJournalBeforeItIsMade(t *testing.T) {
	d, l, a, dir := making(t, "a.luks")
	var states []string
	save := func() error {
		_, err := os.Stat(filepath.Join(dir, "a.luks"))
		b, _ := json.Marshal(l.record.Made)
		states = append(states, map[bool]string{true: "made ", false: "not made "}[err == nil]+map[bool]string{true: "and noted", false: "and not noted"}[!strings.Contains(string(b), `"ino":0`)])
		return nil
	}
	if err := d.makeFiles(t.Context(), l, a, save); err != nil {
		t.Fatal(err)
	}
	if want := []string{"not made and not noted", "made and noted"}; !slices.Equal(states, want) || l.record.Made[0].Path != filepath.Join(dir, "a.luks") {
		t.Errorf("%q, %+v", states, l.record.Made)
	}
}

func TestTheScriptWaitsForAllHeadersAndDoesNotBeginWithoutOne(t *testing.T) {
	written := func(err error) <-chan error {
		c := make(chan error, 1)
		c <- err
		close(c)
		return c
	}
	slow := make(chan error)
	l := newLive(7)
	l.headers = []<-chan error{written(errors.New("no space")), slow}
	waited := make(chan error, 1)
	go func() { waited <- l.awaitHeaders(t.Context()) }()
	slow <- nil
	close(slow)
	var refused *sealed.Refusal
	if err := <-waited; !errors.As(err, &refused) || !strings.Contains(refused.Cause, "no space") {
		t.Errorf("with a header that failed: %v", err)
	}
	// The release waits for them once more.
	if err := l.awaitHeaders(t.Context()); err != nil {
		t.Errorf("asked again: %v", err)
	}
	l.headers = append(l.headers, make(chan error))
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.awaitHeaders(late); !errors.Is(err, context.Canceled) {
		t.Errorf("for a header that never comes: %v", err)
	}
}

func TestTheClosingOfVolumesHasTimeLeftWhenAHeaderNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLive(7)
		killed, kill := context.WithCancel(t.Context())
		l.headers, l.endHeaders = []<-chan error{make(chan error)}, kill
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l.stopHeaders(ctx)
		if ctx.Err() != nil || killed.Err() == nil {
			t.Errorf("the undo's time: %v; who writes the header: %v", ctx.Err(), killed.Err())
		}
	})
}
