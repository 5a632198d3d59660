package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"cloister/tests/faults/call"

	"github.com/google/renameio/v2"
)

// letter is an outcome; the document says what it means.
func (m *Matrix) letter(o *Outcome) (letter string) {
	switch {
	case o == nil:
		return "·"
	case len(o.Bad) > 0:
		letter = "**BAD**"
	case o.Fired == "":
		letter = "–"
	case o.Fenced:
		letter = "L"
	case o.Job == "COMPLETED":
		letter = "g"
	default:
		letter = "f"
	}
	if o.Build != m.Build {
		return "(" + letter + ")"
	}
	return letter
}

// A tally counts cells.
type tally struct{ all, good, bad, missed, earlier, earlierBad int }

func (m *Matrix) count() (t tally) {
	for _, c := range m.Cells() {
		t.all++
		switch o := m.outcome(c); {
		case o == nil || o.Build != m.Build && o.Fired == "" && len(o.Bad) == 0:
		case o.Build != m.Build && len(o.Bad) > 0:
			t.earlierBad++
		case o.Build != m.Build:
			t.earlier++
		case len(o.Bad) > 0:
			t.bad++
		case o.Fired == "":
			t.missed++
		default:
			t.good++
		}
	}
	return t
}

// Table is the matrix in Markdown: a row for the calls that are alike, in its
// columns a letter for each of them that was picked, in their order.
func (m *Matrix) Table() string {
	rows, t := m.rows(rand.New(rand.NewPCG(m.Seed, 0))), m.count()
	same := 0
	for _, r := range rows {
		same += len(r.same)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "A session made %d calls in %d rows, and %d more that not each session makes alike. Of 4 faults at each that is %d cells; as said above %d are tried,\n"+
		"and %d kills after a call are those before the next.\n\n", len(m.Calls), len(rows), m.Fleeting, 4*len(m.Calls), t.all, same)
	fmt.Fprintf(&b, "- With this noded %d were run: good %d, bad %d. In %d more the session did not come by the call.\n", t.good+t.bad, t.good, t.bad, t.missed)
	if earlier := t.earlier + t.earlierBad; earlier > 0 {
		fmt.Fprintf(&b, "- With an earlier noded, and not yet with this one, %d were run: good %d, bad %d.\n", earlier, t.earlier, t.earlierBad)
	}
	fmt.Fprintf(&b, "- Not run with any: %d.\n\n", t.all-t.good-t.bad-t.missed-t.earlier-t.earlierBad)
	for _, what := range m.Together {
		fmt.Fprintf(&b, "- **BAD**: %s\n", what)
	}
	fmt.Fprint(&b, "| call | number |")
	for _, f := range call.Faults {
		fmt.Fprintf(&b, " %s |", f)
	}
	fmt.Fprint(&b, "\n|---|---|"+strings.Repeat("---|", len(call.Faults))+"\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %d |", strings.ReplaceAll(r.name, "|", `\|`), len(r.calls))
		for _, f := range call.Faults {
			var letters []string
			for _, c := range r.calls {
				letter := ""
				switch {
				case slices.Contains(r.picked[f], c):
					letter = m.letter(m.outcome(Cell{c, f}))
				case f == call.KillAfter && slices.Contains(r.same, c):
					letter = "="
				default:
					continue
				}
				if step, _, _ := strings.Cut(c.Name, ":"); !strings.HasPrefix(r.name, step+":") {
					letter += " (" + step + ")"
				}
				letters = append(letters, letter)
			}
			fmt.Fprintf(&b, " %s |", strings.Join(letters, " "))
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
