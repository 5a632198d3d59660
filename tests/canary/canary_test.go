//go:build cluster

package canary

import (
	"testing"

	"cloister/tests/deploy"
)

func TestNothingOfASecureJobIsLeftWhereOthersMayLook(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	if err := Run(t.Context(), s, t.Output()); err != nil {
		t.Fatal(err)
	}
}
