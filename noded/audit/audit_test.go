package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	boot1 = "0123456789abcdef0123456789abcdef"
	boot2 = "fedcba9876543210fedcba9876543210"
)

func config(dir string) Config {
	return Config{Dir: dir, Boot: boot1, Node: "s2", Version: "test", Journal: func(Record, Head) {}, maxFile: 1 << 20, maxFiles: 8}
}

func open(t *testing.T, c Config) *Log {
	t.Helper()
	l := Open(c)
	if err := l.State().Failed; err != nil && !Full(err) {
		t.Fatal(err)
	}
	return l
}

func add(t *testing.T, l *Log, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if _, err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
}

func shut(t *testing.T, l *Log) Head {
	t.Helper()
	h := l.State().Head
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return h
}

func verify(t *testing.T, path string, noted *Head) *Report {
	t.Helper()
	r, err := Verify(path, noted)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// session is what a job leaves.
func session(job uint32) []Entry {
	uid := uint32(2001)
	e := Entry{Session: boot1, Job: job, UID: &uid, User: "alice"}
	var all []Entry
	for _, ev := range []Event{Admitted, Done, Running, Ended, Undone, Released} {
		e.Event = ev
		all = append(all, e)
	}
	return all
}

// tenRecords is a directory with one file of ten records.
func tenRecords(t *testing.T) (dir, file string, head Head) {
	t.Helper()
	dir = t.TempDir()
	l := open(t, config(dir))
	add(t, l, session(7)...)
	add(t, l, Entry{Event: Trouble, Incident: RulesChanged, Detail: "the table is gone"}, Entry{Event: Refused, Detail: "no"}, Entry{Event: NodeStopped})
	head = shut(t, l)
	if head.Seq != 10 {
		t.Fatalf("head is %d", head.Seq)
	}
	return dir, filepath.Join(dir, fileName(1)), head
}

func TestWhateverACrashLeavesIsMarkedAndTheChainGoesOn(t *testing.T) {
	_, file, _ := tenRecords(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lastLine := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	tails := [][]byte{nil}
	for n := len(whole) - lastLine - 1; n > 0; n -= 7 {
		tails = append(tails, whole[lastLine:lastLine+n])
	}
	tails = append(tails, make([]byte, 100), append(make([]byte, 50), "rest of a line\n"...), append(whole[lastLine:lastLine+20:lastLine+20], make([]byte, 9)...))
	for _, tail := range tails {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName(1)), append(whole[:lastLine:lastLine], tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, dir, nil); len(r.Faults) > 0 || (len(tail) > 0) != (len(r.Notes) > 0) {
			t.Fatalf("%q, before noded starts: %+v", tail, r)
		}
		l := open(t, config(dir))
		add(t, l, session(9)...)
		head := shut(t, l)
		r := verify(t, dir, &head)
		if len(r.Faults)+len(r.Notes) > 0 {
			t.Fatalf("%q: %+v", tail, r)
		}
		want := uint64(9 + 6)
		if len(tail) > 0 {
			want++ // the mark, or the last record itself if it is whole but for the line feed
		}
		if r.Records != want {
			t.Fatalf("%q: %d records, want %d", tail, r.Records, want)
		}
	}
}

func TestACrashBetweenAFileAndItsFirstRecordLosesNothing(t *testing.T) {
	for _, tail := range []string{"", `{"seq":1`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName(1)), []byte(tail), 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, config(dir))
		add(t, l, session(1)...)
		shut(t, l)
		if r := verify(t, dir, nil); len(r.Faults) > 0 {
			t.Errorf("%q: %+v", tail, r)
		}
	}
	dir, _, head := tenRecords(t)
	if err := os.WriteFile(filepath.Join(dir, fileName(11)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, config(dir))
	if n := l.State().Incidents[RulesChanged]; n.All != 1 {
		t.Errorf("incidents of the file before are forgotten: %+v", n)
	}
	shut(t, l)
	if r := verify(t, dir, &head); len(r.Faults) > 0 || r.Last != 11 {
		t.Errorf("%+v", r)
	}
}

func TestRecordsThatWereAlteredWhileNodedWasOffAreAnIncidentAndAreLeftAsTheyAre(t *testing.T) {
	dir, file, _ := tenRecords(t)
	lines(t, file, func(l []string) []string { l[4] = strings.Replace(l[4], "alice", "mallo", 1); return l })
	altered, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, config(dir))
	if c := l.State().Incidents; c[RecordsDamaged].All != 1 || c[RulesChanged].All != 1 {
		t.Errorf("counted %v", c)
	}
	add(t, l, session(8)...)
	shut(t, l)
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, altered) {
		t.Errorf("the evidence was changed: %v", err)
	}
	if r := verify(t, dir, nil); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "after record 4") {
		t.Errorf("found %q", r.Faults)
	}
	// It is told once, not at every start.
	l = open(t, config(dir))
	if n := l.State().Incidents[RecordsDamaged].All; n != 1 {
		t.Errorf("%d incidents after another start", n)
	}
	shut(t, l)
}

func TestAFileOfGarbageInPlaceOfTheLastIsAnIncident(t *testing.T) {
	dir, _, _ := tenRecords(t)
	if err := os.WriteFile(filepath.Join(dir, fileName(11)), []byte("garbage\nof a stranger\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, config(dir))
	if c := l.State().Incidents; c[RecordsDamaged].All != 1 || c[RulesChanged].All != 1 {
		t.Errorf("counted %v", c)
	}
	shut(t, l)
}

func TestAChainGoesOnAcrossFilesAndSaysWhatItDropped(t *testing.T) {
	dir := t.TempDir()
	c := config(dir)
	c.maxFile, c.maxFiles = 4<<10, 3
	l := open(t, c)
	for job := range uint32(30) {
		add(t, l, session(job+1)...)
		add(t, l, Entry{Event: Trouble, Incident: DoorOpened, User: fmt.Sprint(job)})
		if job == 15 {
			shut(t, l)
			l = open(t, c)
		}
	}
	if n := l.State().Incidents[DoorOpened]; n != (Counter{30, 30}) {
		t.Errorf("counted %+v", n)
	}
	head := shut(t, l)
	names, err := files(dir)
	if err != nil || len(names) != 3 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	r := verify(t, dir, &head)
	if len(r.Faults)+len(r.Notes) > 0 || r.Before == "" || r.Incidents[DoorOpened].All != 30 {
		t.Fatalf("%+v", r)
	}
	if r := verify(t, names[1], nil); len(r.Faults) > 0 || len(r.Notes) != 1 {
		t.Errorf("a file alone: %+v", r)
	}
	// What noded dropped is told from what somebody else removed.
	for _, i := range []int{0, 1, 2} {
		b, err := os.ReadFile(names[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(names[i]); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, dir, &head); len(r.Faults) == 0 {
			t.Errorf("file %d was removed and nothing found", i)
		}
		if err := os.WriteFile(names[i], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIncidentsAreCountedSinceTheBootAndInAll(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	add(t, l, Entry{Event: Trouble, Incident: Stranger}, Entry{Event: Trouble, Incident: Stranger})
	shut(t, l)
	c := config(dir)
	l = open(t, c)
	if n := l.State().Incidents[Stranger]; n != (Counter{2, 2}) {
		t.Errorf("after a restart %+v", n)
	}
	shut(t, l)
	c.Boot = boot2
	l = open(t, c)
	add(t, l, Entry{Event: Trouble, Incident: Stranger})
	if n := l.State().Incidents[Stranger]; n != (Counter{1, 3}) {
		t.Errorf("after a reboot %+v", n)
	}
	shut(t, l)
	l = open(t, c)
	if n := l.State().Incidents[Stranger]; n != (Counter{1, 3}) {
		t.Errorf("after a restart after a reboot %+v", n)
	}
	shut(t, l)
}

func TestAFloodIsSummedUpAndNothingOfItIsLostToTheCount(t *testing.T) {
	old := refill
	refill = 20 * time.Millisecond
	defer func() { refill = old }()
	dir := t.TempDir()
	l := open(t, config(dir))
	const n = 3000
	for i := range n {
		add(t, l, Entry{Event: Trouble, Incident: DoorOpened, Detail: fmt.Sprint(i)})
	}
	add(t, l, Entry{Event: Trouble, Incident: Replayed}) // another kind is not held back
	for until := time.Now().Add(5 * time.Second); l.State().Incidents[DoorOpened].All != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("counted %d", l.State().Incidents[DoorOpened].All)
		}
	}
	shut(t, l)
	r := verify(t, dir, nil)
	if len(r.Faults) > 0 || r.Incidents[DoorOpened].All != n || r.Incidents[Replayed].All != 1 || r.Records > n/4 {
		t.Errorf("%+v", r)
	}
}

func TestAUsersLoopOfStepsIsSummedUpAfterItsFirstAndHoldsNobodyElseBack(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	const n = 1000
	for i := range uint32(n) {
		add(t, l, Entry{Event: Joined, User: "alice", Step: &i})
	}
	add(t, l, Entry{Event: Joined, User: "bob"})
	if got := l.State().Events[Joined]; got != n+1 {
		t.Errorf("counted %d", got)
	}
	shut(t, l)
	b, err := os.ReadFile(filepath.Join(dir, fileName(1)))
	if err != nil {
		t.Fatal(err)
	}
	var alice, bob uint64
	for _, k := range scan("", b).links {
		switch {
		case k.User == "bob":
			bob++
		case k.User != "alice":
		case alice < burst && (k.More != 0 || uint64(*k.Step) != alice):
			t.Errorf("record %d is of step %d and %d more", k.Seq, *k.Step, k.More)
			fallthrough
		default:
			alice += 1 + k.More
		}
	}
	if lines := bytes.Count(b, []byte{'\n'}); alice != n || bob != 1 || lines > n/4 {
		t.Errorf("%d lines, of %d and %d steps", lines, alice, bob)
	}
}

func TestEachOfManyWritersGetsItsRecordOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	c := config(dir)
	c.maxFile, c.maxFiles = 4<<10, 100
	l := open(t, c)
	var all sync.WaitGroup
	for w := range uint32(8) {
		all.Go(func() {
			for range 20 {
				h, err := l.Add(Entry{Event: Done, Job: w + 1, Phase: "lock"})
				if err == nil {
					err = l.Wait(t.Context(), h)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	head := shut(t, l)
	if r := verify(t, dir, &head); len(r.Faults) > 0 || r.Records < 160 {
		t.Errorf("%+v", r)
	}
}

func TestADiskThatTakesNothingIsAnErrorAndTheJournalHearsOfTheRecord(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var heard []Record
	c := config(t.TempDir())
	c.Journal = func(r Record, h Head) {
		if h == (Head{}) {
			heard = append(heard, r)
		}
	}
	l := open(t, c)
	if err := l.Wait(t.Context(), l.State().Head); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	good := l.file
	l.file = full
	l.mu.Unlock()
	if _, err := l.Add(Entry{Event: Admitted}); err == nil {
		t.Error("no error")
	}
	if len(heard) != 1 || heard[0].Event != Admitted {
		t.Errorf("the journal heard %v", heard)
	}
	full.Close()
	l.mu.Lock()
	l.file = good
	l.mu.Unlock()
	add(t, l, Entry{Event: Admitted}) // there is room again
	if r := verify(t, c.Dir, nil); len(r.Faults) > 0 {
		t.Errorf("%+v", r)
	}
	shut(t, l)
	if _, err := l.Add(Entry{Event: Admitted}); err == nil {
		t.Error("a closed log took a record")
	}
	if err := l.Wait(t.Context(), Head{Seq: 99}); err == nil {
		t.Error("waited for a record that cannot come")
	}
}

func TestANilLogKeepsNothingAndSaysSo(t *testing.T) {
	var l *Log
	if _, err := l.Add(Entry{Event: Admitted}); !errors.Is(err, errNone) {
		t.Error(err)
	}
	if err := l.Wait(t.Context(), Head{}); !errors.Is(err, errNone) {
		t.Error(err)
	}
}

func TestATextCannotBreakOutOfItsLine(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	hostile := "x\n{\"seq\":99}\r\x00\x1b[31m\xff\",\"hash\":\"" + strings.Repeat("ü", maxLine)
	add(t, l, Entry{Event: Refused, User: hostile, Detail: hostile, Phase: hostile, Session: hostile})
	head := shut(t, l)
	if r := verify(t, dir, &head); len(r.Faults) > 0 || r.Records != 2 {
		t.Errorf("%+v", r)
	}
}

// No type that could carry a secret, or anything at all, is in a record.
func TestARecordHasRoomForWordsAndNumbersOnly(t *testing.T) {
	var walk func(reflect.Type, string)
	walk = func(ty reflect.Type, at string) {
		switch ty.Kind() {
		case reflect.String, reflect.Uint32, reflect.Uint64, reflect.Int, reflect.Int64, reflect.Float64:
		case reflect.Pointer:
			walk(ty.Elem(), at)
		case reflect.Map:
			walk(ty.Key(), at+" key")
			walk(ty.Elem(), at)
		case reflect.Struct:
			if ty == reflect.TypeFor[time.Time]() {
				return
			}
			if !strings.HasSuffix(ty.PkgPath(), "noded/audit") {
				t.Errorf("%s is a %s", at, ty)
				return
			}
			for f := range ty.NumField() {
				walk(ty.Field(f).Type, at+"."+ty.Field(f).Name)
			}
		default:
			t.Errorf("%s is a %s", at, ty)
		}
	}
	walk(reflect.TypeFor[Record](), "Record")
}

func TestEveryIncidentHasWordsOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, i := range Incidents {
		if s := i.String(); s == string(i) || seen[s] {
			t.Errorf("%q says %q", string(i), s)
		} else {
			seen[s] = true
		}
	}
}

func TestAHeadIsReadAsItIsWritten(t *testing.T) {
	h := Head{12, sum(nil)}
	if got, err := ParseHead(h.String()); err != nil || got != h {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "12", "12:", ":" + sum(nil), "0:" + sum(nil), "12:" + strings.ToUpper(sum([]byte("x"))), "+12:" + sum(nil), "012:" + sum(nil), " 12:" + sum(nil), "12:" + sum(nil) + " "} {
		if h, err := ParseHead(bad); err == nil {
			t.Errorf("%q is %v", bad, h)
		}
	}
}
