package attacks

import (
	"context"
	"errors"
	"strings"
	"testing"

	"cloister/tests/deploy"
)

func TestAnAttackOfManyVariantsSucceedsOnlyIfEachDoes(t *testing.T) {
	ends := func(err error) func(context.Context, *deploy.Site) error {
		return func(context.Context, *deploy.Site) error { return err }
	}
	var success Success
	refused, won, broke := ends(nil), ends(got("a shell")), ends(errors.New("the cluster broke"))

	if err := every(variant{"a", refused}, variant{"b", refused})(t.Context(), nil); err != nil {
		t.Errorf("all refused: %v", err)
	}
	if err := every(variant{"a", won}, variant{"b", won})(t.Context(), nil); !errors.As(err, &success) || string(success) != "a, b: a shell" {
		t.Errorf("all successful: %v", err)
	}
	for _, second := range []func(context.Context, *deploy.Site) error{refused, broke} {
		err := every(variant{"a", won}, variant{"b", second})(t.Context(), nil)
		if err == nil || errors.As(err, &success) || !strings.Contains(err.Error(), "a: a shell") {
			t.Errorf("one successful: %v", err)
		}
	}
}
