package keystore

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/secret"
	"cloister/volume"
)

func planned(t testing.TB, name string, created time.Time) Volume {
	t.Helper()
	p, k, err := volume.PlanNewVolume(rand.Reader, 64<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	return Volume{Name: name, Label: "label", Job: "job", Created: created, Pinned: p, Keys: k}
}

func TestWhatIsPutIsFoundByUUIDAndByName(t *testing.T) {
	home := t.TempDir()
	s := In(home)
	if found, err := s.Named("a.luks"); err != nil || len(found) != 0 {
		t.Errorf("an empty store: %v, %v", found, err)
	}
	old := planned(t, "a.luks", time.Now().Add(-time.Hour))
	young := planned(t, "a.luks", time.Now())
	other := planned(t, "b.luks", time.Now())
	for _, v := range []Volume{old, young, other} {
		if err := s.Put(v); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Get(young.Pinned.UUID)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Keys.VolumeKey.Equal(young.Keys.VolumeKey) || !got.Keys.KeyslotKey.Equal(young.Keys.KeyslotKey) || got.Pinned != young.Pinned || got.Job != "job" || got.Label != "label" {
		t.Errorf("got %+v", got)
	}
	found, err := s.Named("a.luks")
	if err != nil || len(found) != 2 || found[0].Pinned.UUID != young.Pinned.UUID {
		t.Errorf("by name: %v, %v", found, err)
	}
	if _, err := s.Get(strings.Repeat("0", 8) + "-0000-0000-0000-000000000000"); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	if err := s.Remove(old.Pinned.UUID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(old.Pinned.UUID); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed: %v", err)
	}
}

func TestKeysAreNeverOverwrittenAndTheOwnersAlone(t *testing.T) {
	home := t.TempDir()
	s := In(home)
	v := planned(t, "a.luks", time.Now())
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(v); err != nil {
		t.Fatal(err)
	}
	again := planned(t, "a.luks", time.Now())
	again.Pinned = v.Pinned
	if err := s.Put(again); err == nil {
		t.Error("put other keys over a volume's")
	}
	entries, err := os.ReadDir(filepath.Join(home, dirName))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	st, err := entries[0].Info()
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(home, dirName)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestAFileThatWasNotWrittenHereIsRefused(t *testing.T) {
	s := In(t.TempDir())
	v, other := planned(t, "a.luks", time.Now()), planned(t, "a.luks", time.Now())
	for _, v := range []Volume{v, other} {
		if err := s.Put(v); err != nil {
			t.Fatal(err)
		}
	}
	uuid := v.Pinned.UUID
	good, err := os.ReadFile(s.Path(uuid))
	if err != nil {
		t.Fatal(err)
	}
	swapped, err := os.ReadFile(s.Path(other.Pinned.UUID))
	if err != nil {
		t.Fatal(err)
	}
	text := string(good)
	for name, bad := range map[string]string{
		"empty":              "",
		"another volume's":   string(swapped),
		"unknown field":      strings.Replace(text, `"format"`, `"more": 1, "format"`, 1),
		"other format":       strings.Replace(text, `"format": 1`, `"format": 3`, 1),
		"sealed, in clear":   strings.Replace(text, `"format": 1`, `"format": 2`, 1),
		"other cipher":       strings.Replace(text, volume.Cipher, "cipher_null-ecb", 1),
		"no volume key":      text[:strings.Index(text, `"volume_key"`)] + `"keyslot_key": ""}`,
		"something after":    text + "{}",
		"larger than served": text + strings.Repeat(" ", maxFile),
	} {
		if err := os.WriteFile(s.Path(uuid), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Get(uuid)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if key := v.Keys.VolumeKey.Encode(); strings.Contains(err.Error(), string(key.Reveal()[:20])) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
	if _, err := s.Get("../../../etc/passwd"); err == nil {
		t.Error("a path served as UUID")
	}
}

func FuzzDecode(f *testing.F) {
	dir := f.TempDir()
	s := In(dir)
	v := planned(f, "a.luks", time.Unix(1_700_000_000, 0))
	if err := s.Put(v); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(s.Path(v.Pinned.UUID))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	s.workFactor = quickScrypt
	if err := s.Protect(secret.New([]byte("a long passphrase"))); err != nil {
		f.Fatal(err)
	}
	if b, err = os.ReadFile(s.Path(v.Pinned.UUID)); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b, v.Pinned.UUID)
		if err == nil && (got.Pinned.Validate() != nil || (len(got.VolumeKey) == 0) == (got.Sealed == "")) {
			t.Fatalf("accepted %s", b)
		}
	})
}
