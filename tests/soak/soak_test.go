package soak

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

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
	a, b, other := NewPlans(7, cluster.S1, false), NewPlans(7, cluster.S1, false), NewPlans(7, cluster.S2, false)
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

func TestACalmSoakLetsNodedLive(t *testing.T) {
	p := NewPlans(7, cluster.S1, true)
	for range 100 {
		if plan := p.Next(); plan.Blow.endsNoded() {
			t.Fatalf("a calm soak has %v", plan)
		}
	}
}

// grown is a life of noded whose measures gain so much in each session, and
// vary by chance besides.
func grown(sessions int, resident, fds float64) (l life) {
	chance := rand.New(rand.NewPCG(3, 0))
	for i := range sessions {
		l = append(l, sample{sessions: uint64(i), resident: int64(21e6 + resident*float64(i) + 3e5*chance.NormFloat64()),
			fds: int64(24 + fds*float64(i) + chance.Float64()), routines: 8})
	}
	return l
}

// step is a life with one descriptor more from half way on.
func step() life {
	l := grown(40, 0, 0)
	for i := range l {
		l[i].fds = 24 + int64(i/20)
	}
	return l
}

func TestANodedThatGrowsIsToldFromOneThatVaries(t *testing.T) {
	for _, c := range []struct {
		name  string
		life  life
		grows []bool // memory, descriptors, goroutines
	}{
		{"flat", grown(60, 0, 0), []bool{false, false, false}},
		{"leaks 100 kB", grown(40, 100e3, 0), []bool{true, false, false}},
		{"leaks a descriptor in five sessions", grown(40, 0, 0.2), []bool{false, true, false}},
		{"a step of one descriptor", step(), []bool{false, false, false}},
		{"too short to tell", grown(settling+enough-1, 1e6, 1), []bool{false, false, false}},
	} {
		for i, m := range measures {
			f, ok := m.fitted(c.life)
			if got := ok && m.grows(f); got != c.grows[i] {
				t.Errorf("%s: %s: %v", c.name, m.String(f), got)
			}
		}
	}
}

func TestALifeEndsWhenNodedStartsAnew(t *testing.T) {
	var all []sample
	for _, started := range []int64{1, 1, 2, 3, 3, 3} {
		all = append(all, sample{since: time.Unix(started, 0)})
	}
	if got := lives(all); len(got) != 3 || len(longest(all)) != 3 || longest(all)[0].since.Unix() != 3 {
		t.Errorf("lives: %v", got)
	}
}
