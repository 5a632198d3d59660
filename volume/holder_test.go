package volume

import (
	"strings"
	"testing"
	"time"
)

func TestOnlyWhatANodeWritesIsANote(t *testing.T) {
	h := Holder{Node: "s2", Job: 17, Since: time.Date(2026, 11, 25, 10, 4, 5, 0, time.UTC)}
	if got, ok := parseHolder([]byte(h.encode())); !ok || got != h {
		t.Errorf("%+v, %v", got, ok)
	}
	if want := "job 17 on node s2 has it since 2026-11-25 10:04 UTC"; h.String() != want {
		t.Errorf("%q", h)
	}
	for _, bad := range []string{
		"", "1", h.encode() + "\n", h.encode() + " ", " " + h.encode(), "2" + h.encode()[1:],
		"1 s2 17 2026-11-25T10:04:05+01:00", "1 s2 17 2026-13-25T10:04:05Z", "1 s2 017 2026-11-25T10:04:05Z",
		"1 s2 0 2026-11-25T10:04:05Z", "1 s2 4294967296 2026-11-25T10:04:05Z", "1 s2 -1 2026-11-25T10:04:05Z",
		"1 s\x1b[2J 17 2026-11-25T10:04:05Z", "1 s2\n 17 2026-11-25T10:04:05Z", "1 sé 17 2026-11-25T10:04:05Z",
		"1  17 2026-11-25T10:04:05Z", "1 -s 17 2026-11-25T10:04:05Z", "1 " + strings.Repeat("s", 65) + " 17 2026-11-25T10:04:05Z",
	} {
		if got, ok := parseHolder([]byte(bad)); ok {
			t.Errorf("%q is taken for %+v", bad, got)
		}
	}
}

// Whoever can write the file can write the note: what is shown is printable.
func FuzzHolder(f *testing.F) {
	f.Add([]byte("1 s2 17 2026-11-25T10:04:05Z"))
	f.Add([]byte("1 s2 4294967295 0000-01-01T00:00:00Z"))
	f.Fuzz(func(t *testing.T, note []byte) {
		h, ok := parseHolder(note)
		if !ok {
			return
		}
		if h.encode() != string(note) {
			t.Errorf("%q became %q", note, h.encode())
		}
		if shown := h.String(); printable(shown) != shown || len(shown) > 200 {
			t.Errorf("%q is shown as %q", note, shown)
		}
	})
}
