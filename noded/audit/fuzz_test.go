package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, e := range []Entry{{Event: Done, Phase: "lock"}, {Event: Trouble, Incident: Tampered, More: 3}, {Event: Begun, Begin: &Begin{Format: Format, Incidents: Counters{Stranger: {1, 2}}}}, {Event: Torn, Tear: bytesOf(nil)}} {
		r := Record{Seq: 3, Boot: boot1, Prev: none, Entry: e}
		line, _, err := r.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, hash, err := parse(line)
		if err != nil {
			return
		}
		again, h, err := r.encode()
		if err != nil || h != hash || !bytes.Equal(again, line) {
			t.Errorf("%q is also written %q", line, again)
		}
	})
}

// FuzzChain has somebody write over a part of a chain: noded must start on it,
// and what it wrote before is either there or missed.
func FuzzChain(f *testing.F) {
	dir := f.TempDir()
	l := Open(config(dir))
	for _, e := range session(7) {
		if _, err := l.Add(e); err != nil {
			f.Fatal(err)
		}
	}
	head := l.State().Head
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, fileName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), uint16(0), []byte(nil))
	f.Add(uint16(300), uint16(100), []byte("x\n"))
	f.Add(uint16(len(whole)-20), uint16(20), []byte{0, 0})
	f.Add(uint16(0), uint16(len(whole)), []byte(nil))
	f.Fuzz(func(t *testing.T, at, gone uint16, in []byte) {
		from := min(int(at), len(whole))
		to := min(from+int(gone), len(whole))
		b := append(append(append([]byte(nil), whole[:from]...), in...), whole[to:]...)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName(1)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(dir, &head)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, whole) && len(r.Faults) == 0 {
			t.Errorf("nothing was found in %q", b)
		}
		l := Open(config(dir))
		if _, err := l.Add(Entry{Event: NodeStopped}); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
