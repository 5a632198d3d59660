//go:build cluster

package faults

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

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
	b, err := Start(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	b.site.EndWith(t) // before that, if it failed, with its logs kept
	calls, err := b.Calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chance := rand.New(rand.NewPCG(seed, 0))
	picked := Pick(calls, chance)
	kill := []call.Fault{call.KillBefore, call.KillAfter}[chance.IntN(2)]
	for _, f := range []call.Fault{kill, call.Error} {
		// Not every session makes every call.
		fired := false
		for range 3 {
			o, err := b.Try(t.Context(), picked[chance.IntN(len(picked))], f)
			if err != nil {
				t.Fatalf("%v: %v", o, err)
			}
			t.Log(o)
			if len(o.Bad) > 0 {
				t.Fatal("the site is of no more use")
			}
			if fired = o.Fired != ""; fired {
				break
			}
		}
		if !fired {
			t.Errorf("%s: three sessions did not come by the calls that were picked", f)
		}
	}
}
