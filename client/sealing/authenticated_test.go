package sealing

import (
	"strings"
	"testing"

	"cloister/client/keystore"
	"cloister/sealed"
	"cloister/volume"
)

func TestAVolumeThatTheNodeMakesIsAuthenticatedUnlessTheScriptSaysNot(t *testing.T) {
	for _, c := range []struct {
		script string
		plain  bool
	}{{create, false}, {strings.Replace(create, "64M", "64M,integrity=none", 1), true}} {
		k := &fakeKMS{}
		o, id := options(t, k, c.script)
		r, err := Seal(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		m := manifest(t, o.Out, id)
		if plain := m.Volumes[0].Pinned.Integrity == nil; plain != c.plain {
			t.Errorf("pinned %+v", m.Volumes[0].Pinned)
		}
		s, err := sealed.OpenSecrets(m.Secrets, k.keys[0], m.Job)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := s.Volumes[0].VolumeKey.Len(), map[bool]int{true: 64, false: 96}[c.plain]; got != want {
			t.Errorf("a key of %d bytes, want %d", got, want)
		}
		warned := len(r.Warnings) == 1 && strings.Contains(r.Warnings[0], "nobody notices")
		if warned != c.plain {
			t.Errorf("warnings %q", r.Warnings)
		}
	}
}

func TestTheNextJobPinsTheNewestStateThatWasSeen(t *testing.T) {
	k := &fakeKMS{}
	o, id := options(t, k, create)
	if _, err := Seal(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	made := manifest(t, o.Out, id)
	if made.Volumes[0].State != (volume.State{}) {
		t.Errorf("a volume that is yet to be made has the state %+v", made.Volumes[0].State)
	}
	seen := volume.State{Counter: 2, Job: made.Job}
	if err := keystore.In(o.Home).See(made.Volumes[0].Pinned.UUID, seen); err != nil {
		t.Fatal(err)
	}
	next, id := options(t, k, "#!/bin/sh\n#CLOISTER volume=results.luks:/results:rw\ntrue\n")
	next.Home = o.Home
	if _, err := Seal(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if m := manifest(t, next.Out, id); m.Volumes[0].State != seen {
		t.Errorf("the next job pins %+v", m.Volumes[0].State)
	}
}
