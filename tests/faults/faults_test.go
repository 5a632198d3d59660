//go:build cluster

package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/faults/call"
)

// Each run has another sample. A time-out takes minutes: make faults has those.
func TestAFaultAtACallTakenByChanceLeavesTheNodeCleanOrFenced(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("FAULTS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("FAULTS_SEED=%d in the environment takes the same sample", seed)
	cluster.TakeTurn(t)
	b, err := Start(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	b.site.EndWith(t) // before that, if it failed, with its logs kept
	m, err := Open(t.Context(), filepath.Join(t.TempDir(), "matrix.json"), b)
	if err != nil {
		t.Fatal(err)
	}
	chance := rand.New(rand.NewPCG(seed, 0))
	kill := []call.Fault{call.KillBefore, call.KillAfter}[chance.IntN(2)]
	m.Seed = seed
	cells := map[call.Fault][]Cell{}
	for _, c := range m.Cells() {
		cells[c.Fault] = append(cells[c.Fault], c)
	}
	for try := range 3 { // not every session makes every call
		group := []Cell{cells[kill][try], cells[call.Error][try]}
		found, err := b.Group(t.Context(), group)
		if err != nil {
			t.Fatalf("%v: %v", group, err)
		}
		fired := 0
		for _, o := range found {
			if len(o.Bad) > 0 {
				t.Fatal("the site is of no more use")
			}
			if o.Fired != "" {
				fired++
			}
		}
		if fired == len(group) {
			return
		}
	}
	t.Error("three times a session did not come by the call that was picked")
}
