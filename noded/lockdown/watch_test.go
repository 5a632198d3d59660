//go:build !guest

package lockdown

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// owned puts a table in the place of the lock's that nobody else may change for as
// long as the one lives who made it (NFT_TABLE_F_OWNER).
func owned(t *testing.T, s space) {
	t.Helper()
	cmd := exec.Command("nft", "--interactive")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := in.Write([]byte("add table inet " + TableName + " { flags owner; }\n")); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "a table with an owner", func() bool {
		return strings.Contains(s.run("nft", "list", "ruleset"), "flags owner")
	})
}

func TestAFilterThatCannotBeRestoredEndsTheWatchWithAnError(t *testing.T) {
	old := filterPatience
	filterPatience = 500 * time.Millisecond
	t.Cleanup(func() { filterPatience = old })
	s := newSpace(t)
	owned(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var r record
	failed := make(chan error, 1)
	began := time.Now()
	go func() { failed <- s.filter().Watch(ctx, labLock(), r.report) }()
	select {
	case err := <-failed:
		if !Differs(err) || !strings.Contains(err.Error(), "restoring it failed") {
			t.Errorf("the watch ends with %v", err)
		}
		if took := time.Since(began); took < filterPatience {
			t.Errorf("it had no patience: %v", took)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch goes on")
	}
	if !r.says("restoring it failed") {
		t.Errorf("reported: %q", r.said)
	}
}

func TestAFilterIsAppliedAgainUntilAllOfThatWorked(t *testing.T) {
	// The rules are right after the first try, and what comes after them fails.
	altered, flush := errors.New("altered"), errors.New("connection tracking does not answer")
	checks, applies := []error{altered, nil, nil, nil}, []error{flush, flush, nil}
	next := func(of *[]error) func(context.Context) error {
		return func(context.Context) error {
			if len(*of) == 0 {
				t.Fatal("asked once too often")
			}
			err := (*of)[0]
			*of = (*of)[1:]
			return err
		}
	}
	var said []string
	m := mender{check: next(&checks), apply: next(&applies), report: func(s string) { said = append(said, s) }}
	var since time.Time
	for try, want := range []error{flush, flush, nil, nil} {
		if err := m.mend(t.Context()); !errors.Is(err, want) || err != nil && !errors.Is(err, altered) {
			t.Errorf("try %d: %v, want %v", try+1, err, want)
		}
		if try == 0 {
			since = m.since
		}
	}
	if len(applies) > 0 || m.since != since {
		t.Errorf("%d tries were left out, or the patience began anew", len(applies))
	}
	failing := "altered; restoring it failed: connection tracking does not answer"
	if want := []string{failing, failing, "altered; restored"}; !slices.Equal(said, want) {
		t.Errorf("reported %q", said)
	}
}
