package faults

import (
	"cmp"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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

func picked(m *Matrix) map[call.Fault][]call.Call {
	all := map[call.Fault][]call.Call{}
	for _, c := range m.Cells() {
		all[c.Fault] = append(all[c.Fault], c.Call)
	}
	return all
}

func TestOfManyEqualCallsTheFirstTheLastAndOneBetweenAreTakenAndOneOfTheseHangs(t *testing.T) {
	m := &Matrix{Seed: 1, Calls: append(calls("view: helper fsmount", 40), calls("keys: helper kill", 2)...)}
	for f, got := range picked(m) {
		slices.SortFunc(got, func(a, b call.Call) int { return cmp.Or(strings.Compare(b.Name, a.Name), a.N-b.N) })
		if f == call.Hold {
			if len(got) != 2 || got[0].Name == got[1].Name {
				t.Errorf("%s: %v", f, got)
			}
			continue
		}
		if len(got) != 5 || got[0].N != 1 || got[2].N != 40 || got[1].N <= 1 || got[1].N >= 40 || got[4].N != 2 {
			t.Errorf("%s: %v", f, got)
		}
	}
}

func TestOfWhatEachStepDoesAlikeEachFaultTakesThreeSteps(t *testing.T) {
	m := &Matrix{Seed: 1}
	for _, step := range []string{"admit", "lock", "keys", "unlock", "view", "undo lock"} {
		m.Calls = append(m.Calls, calls(step+": noded rename to /run/cloister/sessions/SESSION.json", 1)...)
		m.Calls = append(m.Calls, calls(step+": noded rename to /elsewhere", 1)...)
	}
	for f, got := range picked(m) {
		if len(got) != 3+6 {
			t.Errorf("%s: %v", f, got)
		}
	}
	if rows := m.rows(rand.New(rand.NewPCG(1, 0))); len(rows) != 7 || rows[0].name != "each step: noded rename to /run/cloister/sessions/SESSION.json" || len(rows[0].calls) != 6 {
		t.Errorf("%d rows", len(rows))
	}
}

func TestAKillAfterACallIsLeftOutOnlyWhereOneBeforeNodedsNextCallIsTried(t *testing.T) {
	for _, c := range []struct {
		trace string
		same  bool
	}{
		{"noded mount, noded umount", true},
		{"noded mount, helper mkdir, noded umount", false}, // the helper may go on
		{"helper mkdir, noded mount", false},
		{"noded mount", false},
	} {
		m := &Matrix{Seed: 1}
		for _, name := range strings.Split(c.trace, ", ") {
			m.Calls = append(m.Calls, calls("lock: "+name, 1)...)
		}
		m.Trace = m.Calls
		if got := !slices.Contains(m.Cells(), Cell{m.Calls[0], call.KillAfter}); got != c.same {
			t.Errorf("%s: left out: %v", c.trace, got)
		}
	}
	// The next call is one that is not tried.
	m := &Matrix{Seed: 1, Calls: calls("lock: noded mount", 1), Trace: append(calls("lock: noded mount", 1), calls("lock: noded fleeting", 1)...)}
	if !slices.Contains(m.Cells(), Cell{m.Calls[0], call.KillAfter}) {
		t.Error("left out, though nothing stands in for it")
	}
}

func TestTheTableHidesNeitherWhatIsBadNorWhatWasNotTriedNorWhoseItIs(t *testing.T) {
	m := &Matrix{file: filepath.Join(t.TempDir(), "m.json"), Build: "new", Calls: calls("lock: helper mount", 1)}
	c := m.Calls[0]
	if err := m.Keep(
		Outcome{Call: c, Fault: call.KillBefore, Build: "old", Fired: "kill before", Job: "FAILED"},
		Outcome{Call: c, Fault: call.KillAfter, Build: "new", Fired: "kill after", Job: "FAILED", Bad: []string{"a mount is left"}},
		Outcome{Call: c, Fault: call.Error, Build: "new", Job: "COMPLETED"},
	); err != nil {
		t.Fatal(err)
	}
	if err := m.KeepTogether("six in a row"); err != nil {
		t.Fatal(err)
	}
	table := m.Table()
	for _, want := range []string{
		"| lock: helper mount | 1 | (f) | **BAD** | – | · |", "With this noded 1 were run: good 0, bad 1. In 1 more", "With an earlier noded, and not yet with this one, 1 were run: good 1, bad 0", "Not run with any: 1.", "**BAD**: six in a row",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if err := m.Verdict(); err == nil || !strings.Contains(err.Error(), "a mount is left") || !strings.Contains(err.Error(), "six in a row") {
		t.Errorf("the verdict is %v", err)
	}
	if left := m.Left(); len(left) != 3 || left[2].Fault != call.KillBefore {
		t.Errorf("what is left is %v: first what no noded was tried with", left)
	}
	if err := m.Keep(Outcome{Call: c, Fault: call.KillBefore, Build: "old", Fired: "kill before", Bad: []string{"a mount is left"}}); err != nil {
		t.Fatal(err)
	}
	if left := m.Left(); len(left) != 3 || left[0].Fault != call.KillBefore {
		t.Errorf("what is left is %v: first what was bad", left)
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
	if s := string(text); !strings.HasPrefix(s, "head\n") || !strings.HasSuffix(s, "tail\n") || strings.Contains(s, "old") || strings.Count(s, "lock: helper mount") != 1 {
		t.Errorf("the document is %s", s)
	}
}
