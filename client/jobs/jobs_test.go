package jobs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/sealed"
)

func TestARecordHoldsNoSecret(t *testing.T) {
	home := t.TempDir()
	m := &sealed.Manifest{
		Format: 1, Job: strings.Repeat("0a", 16), User: "alice", Cluster: "demo", Class: "dedicated",
		Created: time.Unix(1_800_000_000, 0).UTC(), Expires: time.Unix(1_800_100_000, 0).UTC(),
		Environment: map[string]string{"TOKEN": "private-value", "A": "b"},
		Tokens:      []string{"s.first"}, Spare: "s.spare", Secrets: []byte("sealed"),
		Image: &sealed.Image{Path: "a.sif"},
	}
	r := New(m)
	r.SHA256, r.Accessors = "abc", []string{"accessor"}
	if err := Put(home, r); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, dirName, m.Job+suffix)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"private-value", "s.first", "s.spare"} {
		if strings.Contains(string(b), private) {
			t.Errorf("the record holds %q", private)
		}
	}
	got, err := Find(home, "abc")
	if err != nil || got.Job != m.Job || strings.Join(got.Variables, " ") != "A TOKEN" || got.Accessors[0] != "accessor" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Get(home, m.Job); err != nil || got.SHA256 != "abc" {
		t.Errorf("by its id: %+v, %v", got, err)
	}
	if _, err := Get(home, strings.Repeat("0b", 16)); !errors.Is(err, ErrUnknown) {
		t.Errorf("another id: %v", err)
	}
	if _, err := Get(home, "../jobs/"+m.Job); err == nil {
		t.Error("read a path")
	}
	if _, err := Find(home, "other"); !errors.Is(err, ErrUnknown) {
		t.Errorf("another file: %v", err)
	}
	if _, err := Find(t.TempDir(), "abc"); !errors.Is(err, ErrUnknown) {
		t.Errorf("no record at all: %v", err)
	}
	for _, bad := range []string{"", "{}", strings.Replace(string(b), `"format"`, `"more": 1, "format"`, 1), strings.Repeat(" ", maxFile+1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(home, "abc"); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if err := Remove(home, "../x"); err == nil {
		t.Error("removed a path")
	}
	if err := Remove(home, m.Job); err != nil {
		t.Error(err)
	}
	if err := Put(home, &Record{Job: "../x"}); err == nil {
		t.Error("wrote to a path")
	}
}
