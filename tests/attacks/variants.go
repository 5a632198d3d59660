package attacks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloister/tests/deploy"
)

// A variant is one of several ways to make an attack.
type variant struct {
	name string
	try  func(ctx context.Context, s *deploy.Site) error
}

// every makes all variants. It is a Success only if each of them is: so the
// control run shows of each that it could have succeeded.
func every(variants ...variant) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		var t tally
		for _, v := range variants {
			t.add(v.name, v.try(ctx, s))
		}
		return t.result()
	}
}

// A tally counts how the parts of an attack ended.
type tally struct {
	gained  []gain
	refused []string
	faults  []error
}

type gain struct {
	part string
	what Success
}

// add counts one part; err means what Attack.Try's does.
func (t *tally) add(part string, err error) {
	var success Success
	switch {
	case err == nil:
		t.refused = append(t.refused, part)
	case errors.As(err, &success):
		t.gained = append(t.gained, gain{part, success})
	default:
		t.faults = append(t.faults, fmt.Errorf("%s: %w", part, err))
	}
}

// found counts a part that succeeded if something of it was seen.
func (t *tally) found(part, what string, seen bool) {
	if seen {
		t.add(part, got("%s", what))
		return
	}
	t.add(part, nil)
}

func (t *tally) result() error {
	switch {
	case len(t.faults) > 0:
		if len(t.gained) > 0 {
			t.faults = append(t.faults, fmt.Errorf("succeeded: %s", t.successes()))
		}
		return errors.Join(t.faults...)
	case len(t.gained) == 0:
		return nil
	case len(t.refused) > 0:
		return fmt.Errorf("only a part succeeded: %s; refused: %s", t.successes(), strings.Join(t.refused, "; "))
	}
	return got("%s", t.successes())
}

// successes lists what was gained, once for parts that gained the same.
func (t *tally) successes() string {
	var b strings.Builder
	for i, g := range t.gained {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(g.part)
		if i == len(t.gained)-1 || t.gained[i+1].what != g.what {
			b.WriteString(": " + string(g.what))
		}
	}
	return b.String()
}
