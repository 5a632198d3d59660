package noded

import (
	"context"
	"errors"
	"slices"
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

// forgetful is a service manager that does not hear the first request.
type forgetful struct {
	noSystemd
	asked []string
}

func (f *forgetful) Forget(name string) error {
	f.asked = append(f.asked, name)
	if len(f.asked) == 1 {
		return errors.New("no buffer space")
	}
	return nil
}

// Else systemd would hold the namespaces, and with them the volumes.
func TestTheViewIsNotUndoneUntilSystemdHeardOfIt(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	store := &forgetful{}
	d.systemd = store
	var undo func(context.Context) error
	for _, s := range d.steps(withSession(t, d), nil) {
		if s.Name == stepView {
			undo = s.Undo
		}
	}
	if err := undo(t.Context()); err == nil {
		t.Error("undone, though systemd was not told")
	}
	if !slices.Equal(store.asked, []string{keptMount, keptIPC, keptStepKey}) {
		t.Errorf("asked to forget %q", store.asked)
	}
	if err := undo(t.Context()); err != nil || len(store.asked) != 6 {
		t.Errorf("the second time: %v, asked to forget %q", err, store.asked)
	}
}
