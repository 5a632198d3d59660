package attacks

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// An Outcome is how an attack ended, with all defences in place and without
// those that stand against it.
type Outcome struct {
	Attack        Attack
	With, Without error
}

// Faults says what is wrong with an outcome, "" if the attack was refused and
// is known to be able to succeed.
func (o Outcome) Faults() string {
	var faults []string
	if o.With != nil {
		faults = append(faults, "with Cloister: "+firstLine(o.With))
	}
	var success Success
	switch {
	case o.Without == nil:
		faults = append(faults, "refused also without "+o.Attack.without()+": the attack cannot show anything")
	case !errors.As(o.Without, &success):
		faults = append(faults, "without "+o.Attack.without()+": "+firstLine(o.Without))
	}
	return strings.Join(faults, "; ")
}

// without names what the control run lacks.
func (a Attack) without() string {
	if a.Control != nil {
		return "Cloister"
	}
	var names []string
	for _, d := range a.Defences {
		names = append(names, string(d))
	}
	return strings.Join(names, ", ")
}

// Title names an attack in a test's output and on a terminal.
func (a Attack) Title() string { return fmt.Sprintf("%d %s", a.Number, a.Name) }

// cells are a row of the table but for the outcomes, which take a cluster.
func (a Attack) cells() string {
	return fmt.Sprintf("| %d | %s | %s |", a.Number, a.Who, a.Name)
}

// Row is the outcome as a row of the table in Markdown.
func (o Outcome) Row() string {
	with := "refused"
	if o.With != nil {
		with = "**" + firstLine(o.With) + "**"
	}
	gained := "refused too"
	if o.Without != nil {
		gained = firstLine(o.Without)
		var success Success
		if errors.As(o.Without, &success) {
			gained = string(success)
		}
	}
	return fmt.Sprintf("%s %s | without %s: %s |", o.Attack.cells(), with, o.Attack.without(), strings.ReplaceAll(gained, "|", "\\|"))
}

// Heading begins the table.
const Heading = "| no. | who | attack | with Cloister | the same attack, control run |\n|---|---|---|---|---|\n"

// Document is where the table stands, between Begin and End.
const (
	Document = "docs/threat-model.md"
	Begin    = "<!-- make attacks writes from here -->\n"
	End      = "<!-- to here -->\n"
)

// WriteTable puts the outcomes into the document's table. Rows of attacks that
// were not made this time stay as they are.
func WriteTable(document string, outcomes []Outcome) error {
	b, err := os.ReadFile(document)
	if err != nil {
		return fmt.Errorf("writing the table of attacks: %w", err)
	}
	before, rest, found := strings.Cut(string(b), Begin)
	old, after, ended := strings.Cut(rest, End)
	if !found || !ended {
		return fmt.Errorf("writing the table of attacks: %s has no place for it", document)
	}
	rows := strings.SplitAfter(strings.TrimPrefix(old, Heading), "\n")
	for _, o := range outcomes {
		rows = append(rows, o.Row()+"\n")
	}
	out := before + Begin + Heading
	for _, a := range All {
		row := a.cells() + " not run yet | not run yet |\n"
		for _, r := range rows { // the last one is the newest
			if strings.HasPrefix(r, a.cells()) {
				row = r
			}
		}
		out += row
	}
	if err := os.WriteFile(document, []byte(out+End+after), 0o644); err != nil {
		return fmt.Errorf("writing the table of attacks: %w", err)
	}
	return nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
