package noded

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/kms"
	"cloister/kms/server/servertest"
	"cloister/noded/account"
	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/redeem"
	"cloister/noded/replay"
	"cloister/policy"
	"cloister/sealed"
	"cloister/secret"
)

// withKMS gives a daemon a key server of its own and returns what wraps there.
func withKMS(t *testing.T, d *Daemon) (wrap func() secret.Bytes, client *kms.Client) {
	t.Helper()
	s := servertest.Start(t)
	var err error
	if d.kms, err = redeem.New(s.Config); err != nil {
		t.Fatal(err)
	}
	if client, err = kms.New(s.Config); err != nil {
		t.Fatal(err)
	}
	return func() secret.Bytes {
		key, err := secret.Random(rand.Reader, kms.JobKeySize)
		if err != nil {
			t.Fatal(err)
		}
		w, err := client.Wrap(t.Context(), s.User, key, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return w.Token
	}, client
}

func TestTheSpareOfAJobThatRunsOnceIsUsedUpAndOneThatIsGoneIsAnIncident(t *testing.T) {
	d, h, _ := recording(t, policy.OnDemand)
	wrap, client := withKMS(t, d)
	spare := wrap()
	a := &admission{
		request: &handoff.Request{Job: 7, Step: handoff.BatchStep}, run: onlyRun, user: account.Account{Name: "alice"},
		whole: &sealed.Manifest{Job: strings.Repeat("a", 32), Spare: string(spare.Reveal())}, manifest: &sealed.Manifest{Job: strings.Repeat("a", 32)},
	}
	incidents := func() (n int) {
		for _, e := range h.events() {
			if e == audit.Trouble {
				n++
			}
		}
		return n
	}

	use := func(ctx context.Context, a *admission) {
		if a.spareLeft() {
			d.useUpSpare(ctx, secret.New([]byte(a.whole.Spare)), a.about())
		}
	}
	// An array's spare is for the tasks to come, one that the node has used is
	// its own.
	several := *a
	several.whole = &sealed.Manifest{Runs: &sealed.Runs{Tasks: []uint32{1, 2}, Attempts: 1}, Spare: a.whole.Spare}
	use(t.Context(), &several)
	used := *a
	used.question.spare = true
	use(t.Context(), &used)
	use(t.Context(), a)
	if n := incidents(); n != 0 {
		t.Errorf("%d incidents", n)
	}
	if _, err := client.Redeem(t.Context(), spare); !errors.Is(err, kms.ErrUsed) {
		t.Errorf("the spare token afterwards: %v", err)
	}

	use(t.Context(), a)
	if r := h.last(t); incidents() != 1 || r.Incident != audit.TokenUsed || r.User != "alice" || r.Session != a.whole.Job || r.Detail != "its spare token" {
		t.Errorf("a spare token that somebody took: %+v", r)
	}
	// A key server that cannot be reached says nothing of the token.
	a.whole.Spare = string(wrap().Reveal())
	gone, stop := context.WithCancel(t.Context())
	stop()
	use(gone, a)
	if n := incidents(); n != 1 {
		t.Errorf("%d incidents when the key server could not be asked", n)
	}
}

func TestAJobWhoseKeyMayBeTakenIsNotSentToAnotherNode(t *testing.T) {
	d, _, dir := recording(t, policy.OnDemand)
	var err error
	if d.replay, err = replay.Open(filepath.Join(dir, "replay")); err != nil {
		t.Fatal(err)
	}
	const again, here, seal = "nothing was used up", "--nodelist=s2", nextSealAgain
	for _, c := range []struct {
		spent, before, spare bool
		next                 string
	}{
		{next: again}, {spent: true, next: here}, {before: true, next: here}, {spent: true, before: true, next: here},
		{before: true, spare: true, next: here}, {spent: true, before: true, spare: true, next: seal},
	} {
		a := &admission{manifest: &sealed.Manifest{Job: strings.Repeat("a", 32)}, run: onlyRun, question: question{spare: c.spare}}
		lost := &kms.Error{Op: "redeeming a token", Address: "https://kms", Kind: kms.ErrUnreachable, MaybeSpent: c.spent}
		var known *sealed.Refusal
		if err := d.redemptionFailed(a, c.before, lost); !errors.As(err, &known) || !strings.Contains(known.Next, c.next) {
			t.Errorf("%+v: %v", c, known)
		}
	}
}
