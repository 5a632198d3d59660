package attacks

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/mutant"
)

// The table is generated; it goes stale when an attack is added or renamed and
// `make attacks` was not run.
func TestTheDocumentHasEveryAttackInItsTable(t *testing.T) {
	b, err := os.ReadFile("../../" + Document)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), Begin)
	table, _, found := strings.Cut(rest, End)
	if !found {
		t.Fatalf("%s has no table of attacks", Document)
	}
	rows := strings.Split(strings.TrimSpace(strings.TrimPrefix(table, Heading)), "\n")
	if len(rows) != len(All) {
		t.Errorf("%d rows for %d attacks: run make attacks", len(rows), len(All))
	}
	for i, a := range All {
		if i < len(rows) && !strings.HasPrefix(rows[i], a.cells()) {
			t.Errorf("row %d is %q, which is not attack %q: run make attacks", i+1, rows[i], a.Title())
		}
	}
}

func TestEveryAttackCanSucceedSomewhere(t *testing.T) {
	used := map[mutant.Defence]bool{}
	for _, a := range All {
		if (len(a.Defences) == 0) == (a.Control == nil) {
			t.Errorf("attack %s needs either defences to take out or a control run", a.Title())
		}
		if (a.Try == nil) == (a.During == nil && a.Inside == "") {
			t.Errorf("attack %s is neither a try nor a look during a session, or both", a.Title())
		}
		for _, d := range a.Defences {
			used[d] = true
		}
	}
	for _, d := range mutant.All {
		if !used[d] {
			t.Errorf("no attack shows what the defence %s is good for", d)
		}
	}
}

func TestOnlyASuccessCountsAsOne(t *testing.T) {
	a := Attack{Number: 1, Defences: defences("door")}
	for _, c := range []struct {
		with, without error
		good          bool
	}{
		{nil, got("the secret"), true},
		{nil, nil, false},
		{nil, errors.New("the cluster broke"), false},
		{got("the secret"), got("the secret"), false},
		{errors.New("the cluster broke"), got("the secret"), false},
	} {
		o := Outcome{a, c.with, c.without}
		if good := o.Faults() == ""; good != c.good {
			t.Errorf("with %v, without %v: faults %q", c.with, c.without, o.Faults())
		}
	}
}

func TestARunWritesItsOwnRowsAndKeepsTheOthers(t *testing.T) {
	document := filepath.Join(t.TempDir(), "document.md")
	kept := All[1].cells() + " refused | without Cloister: it was read |\n"
	if err := os.WriteFile(document, []byte("text\n"+Begin+Heading+All[0].cells()+" refused | old |\n"+kept+"| 99 | A9 | gone | refused | old |\n"+End+"more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Outcome{Attack: All[0], Without: got("all of it")}
	if err := WriteTable(document, []Outcome{o}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	want := "text\n" + Begin + Heading + o.Row() + "\n" + kept + All[2].cells() + " not run yet | not run yet |\n"
	if text := string(b); !strings.HasPrefix(text, want) || !strings.HasSuffix(text, End+"more\n") || strings.Contains(text, "gone") {
		t.Errorf("the document is %q, want it to begin %q", text, want)
	}
}
