package noded

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cloister/policy"
)

func TestAReleaseEndsTheSessionAndWaitsUntilItIsUndone(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	if r := d.Release(t.Context()); !r.Recovered || len(r.Lines) != 1 || !strings.Contains(r.Lines[0].What, "none has the node") {
		t.Errorf("without a session: %+v", r)
	}
	l := withSession(t, d)
	undone := make(chan struct{})
	go func() {
		<-l.stopped
		time.Sleep(50 * time.Millisecond)
		close(undone)
		d.release(l)
	}()
	r := d.Release(t.Context())
	select {
	case <-undone:
	default:
		t.Error("it did not wait")
	}
	if !r.Recovered || r.Lines[0].What != "ending the session of job 7" || !errors.Is(l.why, errReleased) {
		t.Errorf("%+v, %v", r, l.why)
	}
}

func TestAReleaseThatFencesTheNodeSaysSo(t *testing.T) {
	d, drained := idleDaemon(policy.OnDemand)
	l := withSession(t, d)
	go func() {
		<-l.stopped
		d.fence(errors.New("busy"))
		d.release(l)
	}()
	if r := d.Release(t.Context()); r.Recovered || r.Lines[0].Error != "busy" || r.Next == "" {
		t.Errorf("%+v", r)
	}
	if drained.Load() != 1 {
		t.Error("the node is not drained")
	}
}
