package sealed

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A file that Parse takes must be its own re-encoding, and sbatch must read
// from it only lines that were signed.
func FuzzParse(f *testing.F) {
	names, err := filepath.Glob(filepath.Join(vectorDir, "*.vector"))
	if err != nil || len(names) == 0 {
		f.Fatalf("%d vectors, %v", len(names), err)
	}
	for _, name := range names {
		v, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		_, file, _ := bytes.Cut(v, []byte("\n\n"))
		f.Add(file)
	}
	f.Add([]byte(shebang + hint + (&Manifest{}).Notice().line() + "\n" + document + sigHeader + terminator + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			if r := (*Refusal)(nil); !errors.As(err, &r) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		again, err := e.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted what is not its own re-encoding: %v", err)
		}
		if got := sbatchReads(string(b)); !slices.Equal(got, e.SBATCH()) {
			t.Fatalf("sbatch reads %q, the envelope holds %q", got, e.SBATCH())
		}
		if !bytes.HasPrefix(b, e.signed) {
			t.Fatal("the signature does not cover the beginning")
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	line, err := testManifest(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	several, err := withRuns(f, &Runs{Tasks: []uint32{1, 3}, Attempts: 2}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(several)
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		again, err := m.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted what is not its own re-encoding: %v\n%s\n%s", err, b, again)
		}
		for _, r := range m.Runs.All() {
			own, err := m.ForRun(r)
			if err != nil || m.CheckRun(r) != nil {
				t.Fatalf("a run that is none: %v", err)
			}
			for _, v := range own.Volumes {
				if CheckPath(v.Path) != nil || v.Pinned.Validate() != nil || len(v.Label) > MaxLabel {
					t.Fatalf("run %s has the volume %+v", r.ID(""), v)
				}
			}
		}
	})
}

func FuzzSecrets(f *testing.F) {
	whole, err := testSecrets().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(whole.Reveal()))
	f.Add([]byte(secretsHead + secretsTail))
	f.Add([]byte(secretsHead + secretsFiles + `"AA=="` + secretsTail))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSecrets(bytes.Clone(b)) // it wipes what it read
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil || !bytes.Equal(again.Reveal(), b) {
			t.Fatalf("accepted what is not its own re-encoding: %v", err)
		}
	})
}
