//go:build linux && amd64

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestThePhaseFollowsTheJournal(t *testing.T) {
	was := journalDir
	journalDir = t.TempDir()
	defer func() { journalDir = was }()
	entry := filepath.Join(journalDir, strings.Repeat("0", 32)+".json")
	tr := new(tracer)
	for _, now := range []struct{ written, want string }{
		{"", "admit"},
		{`{"begun":["image"]}`, "image"},
		{`{"begun":["image","lock"]}`, "lock"},
		{`{"begun":["image","lock"],"releasing":true}`, "undo lock"},
		{`{"begun":[],"releasing":true}`, "undo nothing"},
		{"", "end"},
	} {
		var err error
		if now.written == "" {
			err = os.RemoveAll(entry)
		} else if err = os.WriteFile(entry+".new", []byte(now.written), 0o600); err == nil {
			err = os.Rename(entry+".new", entry)
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := tr.phase(); got != now.want {
				t.Errorf("after %q: %q, want %q", now.written, got, now.want)
			}
		}
	}
}
