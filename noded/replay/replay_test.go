package replay

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var id = strings.Repeat("0123456789abcdef", 2)

func TestAJobIsClaimedOnceAlsoByManyAtOnce(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			switch err := s.Claim(id, time.Now().Add(time.Hour)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrSeen):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d claims succeeded", won.Load())
	}
}

func TestJobsAreRememberedUntilTheyExpireAndNoLonger(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Hour)
	if err := s.Claim(id, expires); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Purge(expires.Add(-time.Minute)); n != 0 || err != nil {
		t.Fatalf("forgot %d before expiry, %v", n, err)
	}
	if n, err := s.Purge(expires.Add(time.Minute)); n != 1 || err != nil {
		t.Fatalf("forgot %d after expiry, %v", n, err)
	}
}

func TestAnIDThatIsAPathIsRefused(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "../" + id[3:], strings.ToUpper(id), id + "0", id + "_", id + "r", id + "_3r", id + "_/", id + "r1_3", id + "_3.asked", id + "_12345678"} {
		if err := s.Claim(bad, time.Now()); err == nil {
			t.Errorf("claimed %q", bad)
		}
	}
}

func TestAskingTwiceIsToldApartFromAskingOnce(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Hour)
	for i, want := range []bool{false, true} {
		if before, err := s.Asked(id, expires); err != nil || before != want {
			t.Fatalf("question %d: before = %v, %v", i+1, before, err)
		}
	}
	if err := s.NotAsked(id); err != nil {
		t.Fatal(err)
	}
	if before, err := s.Asked(id, expires); err != nil || before {
		t.Fatalf("after it was taken back: before = %v, %v", before, err)
	}
	if seen, err := s.Seen(id); err != nil || seen {
		t.Fatalf("asking made the job seen: %v, %v", seen, err)
	}
}

func TestEachRunOfAJobIsRememberedByItself(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Hour)
	for _, run := range []string{id, id + "_3", id + "_3r1", id + "_4000000r1023", id + "r1"} {
		if seen, err := s.Seen(run); err != nil || seen {
			t.Errorf("%s was seen before: %v", run, err)
		}
		if before, err := s.Asked(run, expires); err != nil || before {
			t.Errorf("%s was asked for before: %v", run, err)
		}
		if err := s.Claim(run, expires); err != nil {
			t.Error(err)
		}
		if err := s.Claim(run, expires); !errors.Is(err, ErrSeen) {
			t.Errorf("%s was claimed twice: %v", run, err)
		}
	}
}
