//go:build cluster && !mutants

package attacks

import (
	"testing"

	"cloister/tests/deploy"
)

func TestEveryAttackIsRefused(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	if err := Prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, a := range All {
		t.Run(a.Name, func(t *testing.T) {
			if err := a.Try(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
}
