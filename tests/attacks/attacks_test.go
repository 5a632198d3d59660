//go:build cluster && !mutants

package attacks

import (
	"testing"

	"cloister/tests/deploy"
)

// Those that need a running session share one: a session takes longer than
// most attacks.
func TestTheShortAttacksAreRefused(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	if err := Prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	var during, alone []Attack
	for _, a := range All {
		if a.Long {
			continue
		}
		if a.Try == nil {
			during = append(during, a)
		} else {
			alone = append(alone, a)
		}
	}
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
	for _, a := range alone {
		t.Run(a.Title(), func(t *testing.T) {
			if err := a.Try(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
}
