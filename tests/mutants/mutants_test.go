//go:build cluster && mutants

// Package mutants shows that the tests of the defences can fail: it takes each
// defence out of a test build in turn and runs the attack that it stands
// against.
package mutants

import (
	"fmt"
	"strings"
	"testing"

	"cloister/mutant"
	"cloister/tests/attacks"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

func TestMutantsFailTheTestOfTheirDefence(t *testing.T) {
	s := deploy.ForTest(t, deploy.Mutants)
	if err := attacks.Prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, d := range mutant.All {
		a := standsAgainst(t, d)
		t.Run(string(d), func(t *testing.T) {
			remove(t, s, "")
			if err := a.Try(t.Context(), s); err != nil {
				t.Fatalf("with every defence in place the attack %q was not refused: %v", a.Name, err)
			}
			remove(t, s, d)
			err := a.Try(t.Context(), s)
			remove(t, s, "")
			if err == nil {
				t.Fatalf("without %s the attack %q was still refused: its test cannot fail", d, a.Name)
			}
			fmt.Printf("without %-20s the test %q fails: %s\n", d, a.Name, firstLine(err))
		})
	}
}

func standsAgainst(t *testing.T, d mutant.Defence) attacks.Attack {
	t.Helper()
	for _, a := range attacks.All {
		if a.Defence == d {
			return a
		}
	}
	t.Fatalf("no attack tests the defence %s", d)
	return attacks.Attack{}
}

// remove takes a defence out on every node, or none.
func remove(t *testing.T, s *deploy.Site, d mutant.Defence) {
	t.Helper()
	for _, node := range []string{cluster.Head, cluster.S1, cluster.S2} {
		if _, err := s.Output(t.Context(), node, "echo '"+string(d)+"' > "+mutant.File+" && chmod 644 "+mutant.File); err != nil {
			t.Fatal(err)
		}
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
