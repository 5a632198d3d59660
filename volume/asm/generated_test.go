// Package asm_test holds the committed assembly against its generators.
package asm_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestTheCommittedAssemblyIsWhatTheGeneratorsWrite(t *testing.T) {
	for _, g := range []struct{ command, dir, name, pkg string }{
		{"./xts", "../xts", "block_amd64", "xts"},
		{"./sha256", "../verity", "sha256_amd64", "verity"},
	} {
		top := t.TempDir()
		tool := filepath.Join(top, "generator")
		if out, err := exec.Command("go", "build", "-o", tool, g.command).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		out, err := exec.Command(tool, "-out", filepath.Join(top, g.name+".s"), "-stubs", filepath.Join(top, g.name+".go"), "-pkg", g.pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, ext := range []string{".s", ".go"} {
			made, committed := filepath.Join(top, g.name+ext), filepath.Join(g.dir, g.name+ext)
			want, err := os.ReadFile(made)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(committed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(afterFirstLine(got), afterFirstLine(want)) {
				t.Errorf("%s is out of date\nnext: go generate ./volume/...", committed)
			}
		}
	}
}

// afterFirstLine leaves out the line that names the command.
func afterFirstLine(b []byte) []byte {
	_, rest, _ := bytes.Cut(b, []byte("\n"))
	return rest
}
