package unlock

import "testing"

func TestAClosingGoesOnWhileAnyMappingWrites(t *testing.T) {
	a := newAdvance(nil)
	a.goesOn(map[string]uint64{"large": 1 << 20, "small": 10}, 1<<30)
	for _, c := range []struct {
		what   string
		now    map[string]uint64
		memory uint64
		want   bool
	}{
		{"nothing happens", map[string]uint64{"large": 1 << 20, "small": 10}, 1 << 30, false},
		{"the large one is gone", map[string]uint64{"small": 10}, 1 << 30, false},
		{"the small one writes alone", map[string]uint64{"small": 11}, 1 << 30, true},
		{"it stands", map[string]uint64{"small": 11}, 1 << 30, false},
		{"memory comes back", map[string]uint64{"small": 11}, 1<<30 + freedStep, true},
		{"and stays", map[string]uint64{}, 1<<30 + freedStep, false},
	} {
		if got := a.goesOn(c.now, c.memory); got != c.want {
			t.Errorf("%s: goes on %v", c.what, got)
		}
	}
}
