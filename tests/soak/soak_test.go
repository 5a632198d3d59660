package soak

import (
	"slices"
	"testing"

	"cloister/tests/cluster"
)

func TestASeedDealsTheSameJobsAgainAndARoundHasEveryBlow(t *testing.T) {
	size := 0
	for _, n := range deck {
		size += n
	}
	if len(order) != len(deck) {
		t.Errorf("%d blows are dealt, of %d", len(order), len(deck))
	}
	a, b, other := NewPlans(7, cluster.S1), NewPlans(7, cluster.S1), NewPlans(7, cluster.S2)
	seen, same := map[Blow]int{}, 0
	for range size {
		p := a.Next()
		if p != b.Next() {
			t.Errorf("another plan from the same seed: %v", p)
		}
		if p == other.Next() {
			same++
		}
		if seen[p.Blow]++; p.After > p.Records || p.Records > 605 {
			t.Errorf("out of bounds: %v", p)
		}
	}
	for blow, n := range deck {
		if seen[blow] != n || len(blow.ends()) == 0 {
			t.Errorf("%s came %d times, not %d", blow, seen[blow], n)
		}
	}
	if same == size {
		t.Error("both nodes get the same jobs")
	}
}

func TestTheLastRecordOnDiskIsReadFromASleep(t *testing.T) {
	for pgrep, want := range map[string]int{
		"":                                0,
		"12 sleep 1000\n":                 0,
		"12 sleep 1000\n13 sleep 1.00017": 17,
		"9 sleep 1.00600\n10 sleep 1000":  600,
	} {
		if got := synced(pgrep); got != want {
			t.Errorf("%q: %d, want %d", pgrep, got, want)
		}
	}
}

func TestALostRecordAndAnAlteredOneAreNoticed(t *testing.T) {
	for _, c := range []struct {
		file        string
		least, most int
		intact      bool
	}{
		{"", 0, 5, true},
		{"00001\n00002\n00003\n", 2, 5, true},
		{"00001\n00002\n\x00\x00\x00", 2, 5, true}, // not synced, so nobody's promise
		{"00001\n00002\n", 3, 5, false},
		{"00001\n00003\n00003\n", 3, 5, false},
		{"00001\n00002\n00003\n", 1, 2, false},
		{"00001\n00002", 2, 2, false},
	} {
		if err := intact(c.file, c.least, c.most); (err == nil) != c.intact {
			t.Errorf("%q, %d to %d: %v", c.file, c.least, c.most, err)
		}
	}
}

func TestOnlyWhatIsNewIsLeftOver(t *testing.T) {
	before := survey{"mount": {"/", "/run"}, "namespace": {"mnt a", "mnt a"}}
	after := survey{"mount": {"/run", "/"}, "namespace": {"mnt a", "mnt a", "mnt a"}, "loop": {"/dev/loop0"}}
	if got := after.more(before); !slices.Equal(got, []string{"loop /dev/loop0", "namespace mnt a"}) {
		t.Errorf("left over: %q", got)
	}
}
