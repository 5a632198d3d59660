package audit

import (
	"os"
	"strings"
	"testing"
)

func TestAChainThatNobodyTouchedIsWhole(t *testing.T) {
	dir, file, head := tenRecords(t)
	for _, path := range []string{dir, file} {
		r := verify(t, path, &head)
		if len(r.Faults)+len(r.Notes) > 0 || r.Records != 10 || r.Head != head || r.Incidents[RulesChanged] != (Counter{1, 1}) {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

// lines rewrites a file by its lines.
func lines(t *testing.T, file string, change func([]string) []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l := strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
	l[len(l)-1] += "\n"
	if err := os.WriteFile(file, []byte(strings.Join(change(l), "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// forge is a line with other contents and the hash that belongs to them.
func forge(t *testing.T, line string, change func(*Record)) string {
	t.Helper()
	r, _, err := parse([]byte(strings.TrimSuffix(line, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	out, _, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

func TestWhatWasDoneToAChainIsFoundAndSaid(t *testing.T) {
	swap := func(l []string, i, j int) []string { l[i], l[j] = l[j], l[i]; return l }
	for name, c := range map[string]struct {
		change func([]string) []string
		want   string
	}{
		"a word changed": {func(l []string) []string { l[4] = strings.Replace(l[4], "alice", "mallo", 1); return l },
			"a record after record 4 was changed, or a line put in: its contents"},
		"changed with its hash": {func(l []string) []string {
			l[4] = forge(t, l[4], func(r *Record) { r.User = "mallory" })
			return l
		}, "record 5 was changed or replaced: record 6 was written after another"},
		"the first changed": {func(l []string) []string {
			l[0] = forge(t, l[0], func(r *Record) { r.Begin.Node = "other" })
			return l
		}, "record 1 was changed or replaced"},
		"the last changed":  {func(l []string) []string { l[9] = strings.Replace(l[9], "stopped", "started", 1); return l }, "a record after record 9 was changed"},
		"one removed":       {func(l []string) []string { return append(l[:4:4], l[5:]...) }, "record 5 removed before"},
		"several removed":   {func(l []string) []string { return append(l[:4:4], l[7:]...) }, "records 5 to 7 removed before"},
		"the first removed": {func(l []string) []string { return l[1:] }, "begins with record 2: what was before it is gone"},
		"two swapped":       {func(l []string) []string { return swap(l, 3, 4) }, "record 4 not in place before"},
		"one moved far":     {func(l []string) []string { return append(append(l[:2:2], l[3:]...), l[2]) }, "record 3 stands after record 10: moved"},
		"one twice":         {func(l []string) []string { return append(l, l[9]) }, "record 10 stands after record 10: moved, or put in"},
		"a forged one put in": {func(l []string) []string {
			return append(append(l[:5:5], forge(t, l[5], func(r *Record) { r.User = "bob" })), l[5:]...)
		}, "record 6 was changed or replaced"},
		"junk put in":           {func(l []string) []string { return append(append(l[:5:5], "junk\n"), l[5:]...) }, "a line put in: too short"},
		"cut off in the middle": {func(l []string) []string { l[4] = l[4][:50] + "\n"; return l }, "a record after record 4 was changed"},
		"joined lines":          {func(l []string) []string { l[4] = strings.TrimSuffix(l[4], "\n"); return l }, "a record after record 4 was changed"},
		"another encoding":      {func(l []string) []string { l[4] = strings.Replace(l[4], ":", ": ", 1); return l }, "a record after record 4 was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, file, _ := tenRecords(t)
			lines(t, file, c.change)
			r := verify(t, dir, nil)
			if len(r.Faults) == 0 || !strings.Contains(strings.Join(r.Faults, "\n"), c.want) {
				t.Errorf("found %q, want %q", r.Faults, c.want)
			}
		})
	}
}

func TestACutEndIsFoundByAHeadThatWasNotedAndByNothingElse(t *testing.T) {
	dir, file, head := tenRecords(t)
	lines(t, file, func(l []string) []string { return l[:7] })
	if r := verify(t, dir, nil); len(r.Faults) > 0 {
		t.Errorf("found %q without a head", r.Faults)
	}
	r := verify(t, dir, &head)
	if want := "records 8 to 10 removed from the end"; len(r.Faults) != 1 || !strings.Contains(r.Faults[0], want) {
		t.Errorf("found %q, want %q", r.Faults, want)
	}
	// And a chain that was written anew, from the seventh record on.
	l := open(t, config(dir))
	add(t, l, session(8)...)
	shut(t, l)
	r = verify(t, dir, &head)
	if want := "record 10 is not the one that was noted"; len(r.Faults) != 1 || !strings.Contains(r.Faults[0], want) {
		t.Errorf("found %q, want %q", r.Faults, want)
	}
}

// A power cut can end the file after any byte, and can leave zeros.
