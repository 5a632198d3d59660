package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"sync"

	"cloister/tests/faults/call"

	"github.com/google/renameio/v2"
)

// A Cell is one fault at one call.
type Cell struct {
	Call  call.Call
	Fault call.Fault
}

func (c Cell) String() string { return fmt.Sprintf("%s %s", c.Fault, c.Call) }

// A Matrix is the calls of a session and what each fault at each led to.
type Matrix struct {
	// Build is the noded that it is about.
	Build string `json:"build"`
	Seed  uint64 `json:"seed"`
	// Calls are those that two sessions without a fault made alike, in the order of Trace, which is
	// the first one's. What depends on the clock has no number to find it by.
	Calls    []call.Call `json:"calls"`
	Trace    []call.Call `json:"trace"`
	Fleeting int         `json:"fleeting"`
	Outcomes []Outcome   `json:"outcomes"`
	// Together lists groups of faults after which a node was not as it must be, though it was after each of them.
	Together []string `json:"together,omitempty"`
	file     string
	mu       sync.Mutex // of what was found, while several lanes find more
}

// Open reads the matrix, or begins one. Another noded may make other calls: they
// are listed anew. What was found of an earlier one stays, and is told apart.
func Open(ctx context.Context, file string, b *Bench) (*Matrix, error) {
	m := &Matrix{Seed: rand.Uint64()}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading what was found so far: %w", err)
	}
	m.file = file
	if m.Build == b.build {
		return m, nil
	}
	m.Build, m.Together = b.build, nil
	if m.Trace, err = b.Calls(ctx); err != nil {
		return nil, err
	}
	second, err := b.Calls(ctx)
	if err != nil {
		return nil, err
	}
	m.Calls = slices.DeleteFunc(slices.Clone(m.Trace), func(c call.Call) bool { return !slices.Contains(second, c) })
	m.Fleeting = len(m.Trace) + len(second) - 2*len(m.Calls)
	return m, m.save()
}

func (m *Matrix) save() error {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return renameio.WriteFile(m.file, append(text, '\n'), 0o644)
}

// Keep adds outcomes, in place of older ones.
func (m *Matrix) Keep(found ...Outcome) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range found {
		m.Outcomes = append(slices.DeleteFunc(m.Outcomes, func(old Outcome) bool { return old.Call == o.Call && old.Fault == o.Fault }), o)
	}
	return m.save()
}

// KeepTogether adds what cannot be laid at one fault's door.
func (m *Matrix) KeepTogether(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Together = append(m.Together, what)
	return m.save()
}

func (m *Matrix) outcome(c Cell) *Outcome {
	for i, o := range m.Outcomes {
		if o.Call == c.Call && o.Fault == c.Fault {
			return &m.Outcomes[i]
		}
	}
	return nil
}

// Left returns the cells that are still to be tried: first those that were bad
// with an earlier noded, then those that none was tried with, then the others. A
// session that did not come by its call tried nothing.
func (m *Matrix) Left() []Cell {
	var bad, never, before []Cell
	for _, c := range m.Cells() {
		switch o := m.outcome(c); {
		case o != nil && o.Build != m.Build && len(o.Bad) > 0:
			bad = append(bad, c)
		case o == nil || o.Fired == "" && len(o.Bad) == 0:
			never = append(never, c)
		case o.Build != m.Build:
			before = append(before, c)
		}
	}
	return slices.Concat(bad, never, before)
}

// Cells returns the whole matrix in an order by chance that is always the same,
// so that any part of it is a sample.
func (m *Matrix) Cells() []Cell {
	chance := rand.New(rand.NewPCG(m.Seed, 0))
	var cells []Cell
	for _, r := range m.rows(chance) {
		for _, f := range call.Faults {
			for _, c := range r.picked[f] {
				cells = append(cells, Cell{c, f})
			}
		}
	}
	chance.Shuffle(len(cells), func(i, k int) { cells[i], cells[k] = cells[k], cells[i] })
	return cells
}

// A row is calls that are alike, and those of them that a fault is tried at.
type row struct {
	name   string
	calls  []call.Call
	picked map[call.Fault][]call.Call
	// same are those at which a kill after the call leaves what one before the next call leaves.
	same []call.Call
}

// everyStep are the writes of the journal (session.Journal.Save) and of the
// records (audit.Log), which are made in each step by the same lines.
var everyStep = regexp.MustCompile(`^[a-z ]+: (noded (?:` +
	`(?:make|write|sync) (?:/tmp|/run/cloister/sessions)/\.SESSION\.jsonN|rename to /run/cloister/sessions/SESSION\.json|` +
	`(?:write|sync) /var/lib/cloister/audit/records-N\.jsonl))$`)

// rows picks, of calls that are alike, the first, the last, and one between. A
// call that hangs is tried at one of these. Where a call is made in each step
// alike, each fault has a choice of its own.
func (m *Matrix) rows(chance *rand.Rand) []*row {
	var rows []*row
	byName := map[string]*row{}
	for _, c := range m.Calls {
		name := c.Name
		if g := everyStep.FindStringSubmatch(name); g != nil {
			name = "each step: " + g[1]
		}
		r := byName[name]
		if r == nil {
			r = &row{name: name, picked: map[call.Fault][]call.Call{}}
			byName[name], rows = r, append(rows, r)
		}
		r.calls = append(r.calls, c)
	}
	killed := map[call.Call]bool{}
	for _, r := range rows {
		picked := pick(r.calls, chance)
		for _, f := range call.Faults {
			switch {
			case everyStep.MatchString(r.calls[0].Name):
				picked = pick(r.calls, chance)
			case f == call.Hold:
				picked = []call.Call{picked[chance.IntN(len(picked))]}
			}
			r.picked[f] = picked
		}
		for _, c := range r.picked[call.KillBefore] {
			killed[c] = true
		}
	}
	for _, r := range rows {
		var differs []call.Call
		for _, c := range r.picked[call.KillAfter] {
			if next, ok := m.next(c); ok && killed[next] {
				r.same = append(r.same, c)
			} else {
				differs = append(differs, c)
			}
		}
		r.picked[call.KillAfter] = differs
	}
	return rows
}

var ofNoded = regexp.MustCompile(`^[a-z ]+: noded `)

// next is the call that comes right after one of noded's own, if it is noded's
// too. A helper may still make its call when noded is killed before it.
func (m *Matrix) next(c call.Call) (call.Call, bool) {
	i := slices.Index(m.Trace, c) + 1
	if i == 0 || i == len(m.Trace) || !ofNoded.MatchString(c.Name) || !ofNoded.MatchString(m.Trace[i].Name) {
		return call.Call{}, false
	}
	return m.Trace[i], true
}

func pick(calls []call.Call, chance *rand.Rand) []call.Call {
	n := len(calls)
	if n <= 2 {
		return calls
	}
	return []call.Call{calls[0], calls[1+chance.IntN(n-2)], calls[n-1]}
}

// Verdict is an error if anything is bad.
func (m *Matrix) Verdict() error {
	var all []error
	for _, o := range m.Outcomes {
		if len(o.Bad) > 0 {
			all = append(all, errors.New(o.String()))
		}
	}
	for _, what := range m.Together {
		all = append(all, errors.New(what))
	}
	return errors.Join(all...)
}
