package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/faults/call"
)

func calls(name string, n int) (all []call.Call) {
	for i := range n {
		all = append(all, call.Call{Name: name, N: i + 1})
	}
	return all
}

func TestOfManyEqualCallsTheFirstTheLastAndOneBetweenAreTaken(t *testing.T) {
	picked := Pick(append(calls("view: noded fsmount", 40), calls("keys: noded kill", 2)...), rand.New(rand.NewPCG(1, 0)))
	if len(picked) != 5 || picked[0].N != 1 || picked[2].N != 40 || picked[1].N <= 1 || picked[1].N >= 40 || picked[4].N != 2 {
		t.Errorf("picked %v", picked)
	}
}

func TestTheTableHidesNeitherWhatIsBadNorWhatWasNotTried(t *testing.T) {
	m := &Matrix{file: filepath.Join(t.TempDir(), "m.json"), Calls: calls("lock: noded mount", 1)}
	c := m.Calls[0]
	for _, o := range []Outcome{
		{Call: c, Fault: call.KillBefore, Fired: "kill before", Job: "FAILED"},
		{Call: c, Fault: call.KillAfter, Fired: "kill after", Job: "FAILED", Bad: []string{"a mount is left"}},
		{Call: c, Fault: call.Error, Job: "COMPLETED"},
	} {
		if err := m.Keep(o); err != nil {
			t.Fatal(err)
		}
	}
	table := m.Table()
	for _, want := range []string{"| lock: noded mount | 1 | f | **BAD** | – | · |", "4 cells. Run: 2, of which good: 1, bad: 1. Not reached by the session that was to fail: 1. Not yet run: 1."} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if err := m.Verdict(); err == nil || !strings.Contains(err.Error(), "a mount is left") {
		t.Errorf("the verdict is %v", err)
	}
	if m.Done(Cell{c, call.Error}) || !m.Done(Cell{c, call.KillAfter}) || m.Done(Cell{c, call.Hold}) {
		t.Error("what is done is mixed up")
	}
	file := filepath.Join(t.TempDir(), "faults.md")
	if err := os.WriteFile(file, []byte("head\n"+tableBegin+"old\n"+tableEnd+"tail\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also over what it wrote itself
		if err := m.WriteTable(file); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := os.ReadFile(file)
	if s := string(text); !strings.HasPrefix(s, "head\n") || !strings.HasSuffix(s, "tail\n") || strings.Contains(s, "old") || strings.Count(s, "lock: noded mount") != 1 {
		t.Errorf("the document is %s", s)
	}
}
