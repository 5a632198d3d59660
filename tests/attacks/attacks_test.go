//go:build cluster && !mutants

package attacks

import (
	"slices"
	"testing"

	"cloister/tests/deploy"
)

// Those that need a running session share one: a session takes longer than
// most attacks.
func TestTheShortAttacksOnARunningSessionAreRefused(t *testing.T) {
	s := prepared(t)
	during := short(func(a Attack) bool { return a.Try == nil })
	err := Together(t.Context(), s, during, func(i int, err error) {
		t.Run(during[i].Title(), func(t *testing.T) {
			if err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Errorf("the session that was attacked: %v", err)
	}
}

// On two sites, side by side: one would be at it when all other tests are over.
func TestTheOtherShortAttacksAreRefused(t *testing.T) {
	all := short(func(a Attack) bool { return a.Try != nil })
	for half := range slices.Chunk(all, (len(all)+1)/2) {
		t.Run("from "+half[0].Title(), func(t *testing.T) {
			s := prepared(t)
			for _, a := range half {
				t.Run(a.Title(), func(t *testing.T) {
					if err := a.Try(t.Context(), s); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

func prepared(t *testing.T) *deploy.Site {
	t.Helper()
	s := deploy.ForTest(t, deploy.Release)
	if err := Prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func short(wanted func(Attack) bool) (all []Attack) {
	for _, a := range All {
		if !a.Long && wanted(a) {
			all = append(all, a)
		}
	}
	return all
}
