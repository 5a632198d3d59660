package faults

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"cloister/tests/faults/call"

	"github.com/google/renameio/v2"
)

// mark is an outcome in one letter; the document says what it means.
func mark(o *Outcome) string {
	switch {
	case o == nil:
		return "·"
	case len(o.Bad) > 0:
		return "**BAD**"
	case o.Fired == "":
		return "–"
	case o.Fenced:
		return "L"
	case o.Job == "COMPLETED":
		return "g"
	}
	return "f"
}

// Table is the matrix in Markdown: a row for each name of a call, in its
// columns a letter for each call of that name that was picked.
func (m *Matrix) Table() string {
	cells := map[call.Call]map[call.Fault]string{}
	var names []string
	picked := map[string][]call.Call{}
	count := map[string]int{}
	for _, c := range m.Calls {
		if count[c.Name]++; count[c.Name] == 1 {
			names = append(names, c.Name)
		}
	}
	run, good, bad, missed, all := 0, 0, 0, 0, 0
	for _, c := range m.Cells() {
		all++
		o := m.outcome(c)
		if cells[c.Call] == nil {
			cells[c.Call] = map[call.Fault]string{}
			picked[c.Call.Name] = append(picked[c.Call.Name], c.Call)
		}
		cells[c.Call][c.Fault] = mark(o)
		switch {
		case o == nil:
			continue
		case len(o.Bad) > 0:
			bad++
		case o.Fired == "":
			missed++
			continue
		default:
			good++
		}
		run++
	}
	for _, calls := range picked {
		slices.SortFunc(calls, func(a, b call.Call) int { return a.N - b.N })
	}
	var b strings.Builder
	fmt.Fprintf(&b, "A session made %d calls of %d names, and %d more that not each session makes alike; of each name the first, the last and one between are\n"+
		"tried: %d cells. Run: %d, of which good: %d, bad: %d. Not reached by the session that was to fail: %d. Not yet run: %d.\n\n",
		len(m.Calls), len(names), m.Fleeting, all, run, good, bad, missed, all-run-missed)
	fmt.Fprint(&b, "| call | number |")
	for _, f := range call.Faults {
		fmt.Fprintf(&b, " %s |", f)
	}
	fmt.Fprint(&b, "\n|---|---|"+strings.Repeat("---|", len(call.Faults))+"\n")
	for _, name := range names {
		fmt.Fprintf(&b, "| %s | %d |", strings.ReplaceAll(name, "|", `\|`), count[name])
		for _, f := range call.Faults {
			var marks []string
			for _, c := range picked[name] {
				marks = append(marks, cells[c][f])
			}
			fmt.Fprintf(&b, " %s |", strings.Join(marks, " "))
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

const (
	tableBegin = "<!-- make faults writes from here -->\n"
	tableEnd   = "<!-- to here -->\n"
)

// WriteTable puts the matrix into a document, between its two marks.
func (m *Matrix) WriteTable(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), tableBegin)
	_, tail, also := strings.Cut(rest, tableEnd)
	if !ok || !also {
		return fmt.Errorf("%s has no place for the matrix", file)
	}
	said := fmt.Sprintf("Of %s, noded %s.\n\n", time.Now().UTC().Format(time.DateOnly), m.Build)
	return renameio.WriteFile(file, []byte(head+tableBegin+"\n"+said+m.Table()+"\n"+tableEnd+tail), 0o644)
}
