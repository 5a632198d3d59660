package noded

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
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
	return withLossyKMS(t, d, nil)
}

// withLossyKMS does too, but what the daemon asks passes somebody who loses some.
func withLossyKMS(t *testing.T, d *Daemon, lose func(path string) loss) (wrap func() secret.Bytes, client *kms.Client) {
	t.Helper()
	s := servertest.Start(t)
	seen := s.Config
	if lose != nil {
		seen = lossy(t, s.Config, lose)
	}
	var err error
	if d.kms, err = redeem.New(seen); err != nil {
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

func (h *heard) incidents() (n int) {
	for _, e := range h.events() {
		if e == audit.Trouble {
			n++
		}
	}
	return n
}

// A loss is what somebody on the network takes of a request.
type loss int

const (
	nothingLost loss = iota
	requestLost
	answerLost
)

// lossy stands between a client and the KMS of a configuration.
func lossy(t *testing.T, c kms.Config, lose func(path string) loss) kms.Config {
	t.Helper()
	to, err := url.Parse(c.Address)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CAPEM)
	on := httputil.NewSingleHostReverseProxy(to)
	on.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch lose(r.URL.Path) {
		case nothingLost:
			on.ServeHTTP(w, r)
			return
		case answerLost:
			on.ServeHTTP(httptest.NewRecorder(), r)
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return kms.Config{Address: s.URL, CAPEM: ca}
}

// runsOnce is the admission of a job of alice's with that spare token.
func runsOnce(spare secret.Bytes) *admission {
	m := &sealed.Manifest{Expires: time.Now().Add(time.Hour), Job: strings.Repeat("a", 32), Spare: string(spare.Reveal())}
	return &admission{request: &handoff.Request{Job: 7, Step: handoff.BatchStep}, run: onlyRun, user: account.Account{Name: "alice"}, whole: m, manifest: m}
}

func TestTheSpareIsUsedUpThoughATryOfItWasDropped(t *testing.T) {
	for name, c := range map[string]struct {
		loss      loss
		incidents int
	}{
		"lookup":        {requestLost, 0},
		"unwrap":        {requestLost, 0},
		"unwrap answer": {answerLost, 1}, // a thief's use looks the same
	} {
		t.Run(name, func(t *testing.T) {
			d, h, _ := recording(t, policy.OnDemand)
			path, _, _ := strings.Cut(name, " ")
			var left atomic.Int32
			left.Store(1)
			wrap, client := withLossyKMS(t, d, func(p string) loss {
				if strings.HasSuffix(p, path) && left.Add(-1) >= 0 {
					return c.loss
				}
				return nothingLost
			})
			spare := wrap()
			end := d.usingUpSpare(t.Context(), runsOnce(spare))
			defer end()
			done := func() bool {
				_, err := client.Lookup(t.Context(), spare)
				return errors.Is(err, kms.ErrUsed) && h.incidents() == c.incidents
			}
			for until := time.Now().Add(time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(until) {
					t.Fatalf("the spare token is good still, or not told of: %v", h.events())
				}
			}
			end()
			if n := h.incidents(); n != c.incidents {
				t.Errorf("%d incidents, want %d", n, c.incidents)
			}
		})
	}
}

// Of an expired token a key server says what it says of one that was taken.
func TestTheSpareOfAnExpiredJobIsNotAskedFor(t *testing.T) {
	d, h, _ := recording(t, policy.OnDemand)
	asked := make(chan struct{}, 100)
	wrap, _ := withLossyKMS(t, d, func(string) loss {
		asked <- struct{}{}
		return nothingLost
	})
	a := runsOnce(wrap())
	a.whole.Expires = time.Now()
	for len(asked) > 0 { // by wrapping it
		<-asked
	}
	end := d.usingUpSpare(t.Context(), a)
	time.Sleep(firstSparePause / 2)
	end()
	if len(asked) > 0 || h.incidents() > 0 {
		t.Errorf("asked %d times, %d incidents", len(asked), h.incidents())
	}
}

func TestTheSpareIsTriedNoMoreWhenTheSessionIsOver(t *testing.T) {
	d, _, _ := recording(t, policy.OnDemand)
	asked := make(chan struct{}, 100)
	wrap, client := withLossyKMS(t, d, func(string) loss {
		asked <- struct{}{}
		return requestLost
	})
	spare := wrap()
	end := d.usingUpSpare(t.Context(), runsOnce(spare))
	for range 2 {
		select {
		case <-asked:
		case <-time.After(30 * time.Second):
			t.Fatal("there is no second try")
		}
	}
	end()
	for len(asked) > 0 {
		<-asked
	}
	time.Sleep(3 * firstSparePause)
	if n := len(asked); n != 0 {
		t.Errorf("asked %d times more", n)
	}
	if _, err := client.Lookup(t.Context(), spare); err != nil {
		t.Errorf("the spare token: %v", err)
	}
}

func TestTheSpareOfAJobThatRunsOnceIsUsedUpAndOneThatIsGoneIsAnIncident(t *testing.T) {
	d, h, _ := recording(t, policy.OnDemand)
	wrap, client := withKMS(t, d)
	spare := wrap()
	a := runsOnce(spare)
	incidents := h.incidents

	use := func(ctx context.Context, a *admission) {
		if a.spareLeft() {
			d.useUpSpare(ctx, secret.New([]byte(a.whole.Spare)), a.about())
		}
	}
	// An array's spare is for the tasks to come, one that the node has used is
	// its own.
	several := *a
	several.whole = &sealed.Manifest{Expires: time.Now().Add(time.Hour), Runs: &sealed.Runs{Tasks: []uint32{1, 2}, Attempts: 1}, Spare: a.whole.Spare}
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
