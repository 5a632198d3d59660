package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"

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
	// Calls are those that two sessions without a fault made alike, Fleeting counts the rest: what
	// depends on the clock has no number to find it by.
	Calls    []call.Call `json:"calls"`
	Fleeting int         `json:"fleeting"`
	Outcomes []Outcome   `json:"outcomes"`
	file     string
}

// Open reads the matrix, or begins one if there is none about this noded.
func Open(ctx context.Context, file string, b *Bench) (*Matrix, error) {
	build, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	m := &Matrix{file: file}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading what was found so far: %w", err)
	}
	if err == nil && m.Build == build {
		return m, nil
	}
	*m = Matrix{file: file, Build: build, Seed: rand.Uint64()}
	first, err := b.Calls(ctx)
	if err != nil {
		return nil, err
	}
	second, err := b.Calls(ctx)
	if err != nil {
		return nil, err
	}
	m.Calls = slices.DeleteFunc(slices.Clone(first), func(c call.Call) bool { return !slices.Contains(second, c) })
	m.Fleeting = len(first) + len(second) - 2*len(m.Calls)
	return m, m.save()
}

func (m *Matrix) save() error {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return renameio.WriteFile(m.file, append(text, '\n'), 0o644)
}

// Keep adds an outcome, in place of an older one.
func (m *Matrix) Keep(o Outcome) error {
	m.Outcomes = append(slices.DeleteFunc(m.Outcomes, func(old Outcome) bool { return old.Call == o.Call && old.Fault == o.Fault }), o)
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

// Done: the cell was tried before, and the session came by its call.
func (m *Matrix) Done(c Cell) bool {
	o := m.outcome(c)
	return o != nil && (o.Fired != "" || len(o.Bad) > 0)
}

// Cells returns the whole matrix in an order by chance that is always the same,
// so that any part of it is a sample.
func (m *Matrix) Cells() []Cell {
	chance := rand.New(rand.NewPCG(m.Seed, 0))
	var cells []Cell
	for _, c := range Pick(m.Calls, chance) {
		for _, f := range call.Faults {
			cells = append(cells, Cell{c, f})
		}
	}
	chance.Shuffle(len(cells), func(i, k int) { cells[i], cells[k] = cells[k], cells[i] })
	return cells
}

// Pick takes of the calls of each name the first, the last, and one between.
func Pick(calls []call.Call, chance *rand.Rand) (picked []call.Call) {
	count := map[string]int{}
	for _, c := range calls {
		count[c.Name]++
	}
	between := map[string]int{}
	for _, c := range calls {
		n := count[c.Name]
		if between[c.Name] == 0 && n > 2 {
			between[c.Name] = 2 + chance.IntN(n-2)
		}
		if c.N == 1 || c.N == n || c.N == between[c.Name] {
			picked = append(picked, c)
		}
	}
	return picked
}

// Verdict is an error if any cell is bad.
func (m *Matrix) Verdict() error {
	var all []error
	for _, o := range m.Outcomes {
		if len(o.Bad) > 0 {
			all = append(all, errors.New(o.String()))
		}
	}
	return errors.Join(all...)
}
