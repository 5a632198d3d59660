package keystore

import (
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cloister/secret"
	"cloister/volume"
)

const (
	jobA = "00112233445566778899aabbccddeeff"
	jobB = "ffeeddccbbaa99887766554433221100"
)

func TestTheNewestStateSeenIsKeptAlsoInAProtectedStore(t *testing.T) {
	for _, protected := range []bool{false, true} {
		home := t.TempDir()
		s := In(home)
		p, k, err := volume.PlanNewVolume(rand.Reader, 64<<20, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(Volume{Name: "a.luks", Created: time.Now(), Pinned: p, Keys: k}); err != nil {
			t.Fatal(err)
		}
		if protected {
			s.workFactor = quickScrypt
			if err := s.Protect(secret.New([]byte("a passphrase"))); err != nil {
				t.Fatal(err)
			}
			s = In(home) // without one who could be asked
		}
		for _, c := range []struct {
			see, want volume.State
			refused   bool
		}{
			{see: volume.State{Counter: 2, Job: jobA}, want: volume.State{Counter: 2, Job: jobA}},
			{see: volume.State{Counter: 6, Job: jobB}, want: volume.State{Counter: 6, Job: jobB}},
			{see: volume.State{Counter: 2, Job: jobA}, want: volume.State{Counter: 6, Job: jobB}, refused: true},
			{see: volume.State{Counter: 6, Job: jobA}, want: volume.State{Counter: 6, Job: jobB}, refused: true},
			{see: volume.State{Counter: 0, Job: jobA}, want: volume.State{Counter: 6, Job: jobB}, refused: true},
		} {
			if err := s.See(p.UUID, c.see); (err != nil) != c.refused {
				t.Errorf("seeing %+v: %v", c.see, err)
			}
			d, err := s.Describe(p.UUID)
			if err != nil || d.Seen != c.want {
				t.Errorf("after %+v: %+v, %v", c.see, d.Seen, err)
			}
		}
		if !protected {
			v, err := s.Get(p.UUID)
			if err != nil || !v.Keys.VolumeKey.Equal(k.VolumeKey) || v.Keys.VolumeKey.Len() != 96 {
				t.Errorf("the keys afterwards: %v", err)
			}
		}
	}
}

func TestAStateThatNoNodeWritesIsRefused(t *testing.T) {
	s := In(t.TempDir())
	v := planned(t, "a.luks", time.Now())
	v.Seen = volume.State{Counter: 2, Job: jobA}
	if err := s.Put(v); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.Path(v.Pinned.UUID))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{strings.Replace(string(b), jobA, "x", 1), strings.Replace(string(b), `"counter": 2`, `"counter": 0`, 1)} {
		if err := os.WriteFile(s.Path(v.Pinned.UUID), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Describe(v.Pinned.UUID); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("accepted: %v", err)
		}
	}
}
