package keystore

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cloister/secret"
)

// quickScrypt is for tests alone.
const quickScrypt = 5

// answering counts how often it is asked.
func answering(answer string, asked *int) Asker {
	return func(string) (secret.Bytes, error) {
		*asked++
		return secret.New([]byte(answer)), nil
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAProtectedStoreKeepsKeysWithoutAskingAndGivesThemOutForThePassphrase(t *testing.T) {
	home := t.TempDir()
	old, young := planned(t, "a.luks", time.Now().Add(-time.Hour)), planned(t, "a.luks", time.Now())
	s := In(home)
	s.workFactor = quickScrypt
	if err := s.Put(old); err != nil {
		t.Fatal(err)
	}
	if err := s.Protect(secret.New([]byte("a long passphrase"))); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Protected(); !p || err != nil {
		t.Errorf("protected %v, %v", p, err)
	}
	s = In(home) // which has not seen the identity
	if err := s.Put(young); err != nil {
		t.Fatal(err)
	}
	for _, v := range []Volume{old, young} {
		text := read(t, s.Path(v.Pinned.UUID))
		key := v.Keys.VolumeKey.Encode()
		if strings.Contains(text, string(key.Reveal()[:20])) || strings.Contains(text, "volume_key") {
			t.Error("a key is in the clear")
		}
		if d, err := s.Describe(v.Pinned.UUID); err != nil || d.Pinned != v.Pinned || d.Keys.VolumeKey.Len() != 0 {
			t.Errorf("described %+v, %v", d, err)
		}
		if _, err := s.Get(v.Pinned.UUID); err == nil {
			t.Error("gave keys out without asking")
		}
	}
	asked := 0
	if _, err := In(home).Asking(answering("wrong", &asked)).Get(old.Pinned.UUID); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	asked = 0
	s = In(home).Asking(answering("a long passphrase", &asked))
	found, err := s.Named("a.luks")
	if err != nil || len(found) != 2 || asked != 1 {
		t.Fatalf("%d found, asked %d times, %v", len(found), asked, err)
	}
	if !found[0].Keys.VolumeKey.Equal(young.Keys.VolumeKey) || !found[1].Keys.KeyslotKey.Equal(old.Keys.KeyslotKey) {
		t.Error("other keys came out than went in")
	}
	if v, err := s.Get(old.Pinned.UUID); err != nil || asked != 1 || !v.Keys.VolumeKey.Equal(old.Keys.VolumeKey) {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

func TestThePassphraseOfAStoreCanBeChanged(t *testing.T) {
	home := t.TempDir()
	v := planned(t, "a.luks", time.Now())
	s := In(home)
	s.workFactor = quickScrypt
	if err := errors.Join(s.Put(v), s.Protect(secret.New([]byte("the first one")))); err != nil {
		t.Fatal(err)
	}
	asked := 0
	s = In(home).Asking(answering("guessed", &asked))
	s.workFactor = quickScrypt
	if err := s.Protect(secret.New([]byte("mine now"))); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("changed without the old one: %v", err)
	}
	s = In(home).Asking(answering("the first one", &asked))
	s.workFactor = quickScrypt
	if err := s.Protect(secret.New([]byte("the second one"))); err != nil {
		t.Fatal(err)
	}
	if _, err := In(home).Asking(answering("the first one", &asked)).Get(v.Pinned.UUID); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("the old passphrase: %v", err)
	}
	if got, err := In(home).Asking(answering("the second one", &asked)).Get(v.Pinned.UUID); err != nil || !got.Keys.VolumeKey.Equal(v.Keys.VolumeKey) {
		t.Errorf("the new passphrase: %v", err)
	}
}

func TestASealedKeyDoesNotServeAnotherVolume(t *testing.T) {
	home := t.TempDir()
	asked := 0
	s := In(home).Asking(answering("a long passphrase", &asked))
	s.workFactor = quickScrypt
	if err := s.Protect(secret.New([]byte("a long passphrase"))); err != nil {
		t.Fatal(err)
	}
	a, b := planned(t, "a.luks", time.Now()), planned(t, "b.luks", time.Now())
	if err := errors.Join(s.Put(a), s.Put(b)); err != nil {
		t.Fatal(err)
	}
	var fa, fb file
	if err := errors.Join(json.Unmarshal([]byte(read(t, s.Path(a.Pinned.UUID))), &fa), json.Unmarshal([]byte(read(t, s.Path(b.Pinned.UUID))), &fb)); err != nil {
		t.Fatal(err)
	}
	fa.Sealed = fb.Sealed
	text, err := json.Marshal(fa)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(a.Pinned.UUID), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(a.Pinned.UUID); err == nil || !strings.Contains(err.Error(), "another volume") {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(s.protectionPath()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(b.Pinned.UUID); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("without the identity: %v", err)
	}
}
