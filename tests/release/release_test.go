package release

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// programs are what the Makefile builds in Go.
var programs = []string{"cloister", "cloister-kms", "cloister-noded"}

// library is what sbatch loads; no build for tests has one.
const library = "cloister-submit.so"

func TestReleaseBinariesLackTheSwitchThatTakesDefencesOut(t *testing.T) {
	lookAtSources(t)
	mark, file := switches(t)
	t.Run("release", func(t *testing.T) {
		shipped := append(slices.Clone(programs), library)
		dir := build(t, "build", shipped)
		for _, name := range shipped {
			binary := read(t, filepath.Join(dir, name))
			for _, s := range []string{mark, file} {
				if bytes.Contains(binary, []byte(s)) {
					t.Errorf("%s contains %q", name, s)
				}
			}
			if tags := tagsOf(t, filepath.Join(dir, name)); slices.Contains(tags, "mutants") {
				t.Errorf("%s was built with the tags %q", name, tags)
			}
		}
	})
	// What is not found above must be something that can be found.
	t.Run("mutants", func(t *testing.T) {
		dir := build(t, "build-mutants", programs)
		for _, name := range programs {
			binary := read(t, filepath.Join(dir, name))
			for _, s := range []string{mark, file} {
				if !bytes.Contains(binary, []byte(s)) {
					t.Errorf("%s lacks %q: the search in the release build proves nothing", name, s)
				}
			}
			if tags := tagsOf(t, filepath.Join(dir, name)); !slices.Contains(tags, "mutants") {
				t.Errorf("%s says that it was built with the tags %q", name, tags)
			}
		}
	})
}

// lookAtSources makes the go command run this test again when a file has
// changed that goes into the binaries: its cache of results knows what a test
// looked at, not what programs did that the test started.
func lookAtSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch filepath.Base(path) {
		case ".git", "bin", "tests", "testdata":
			return fs.SkipDir
		}
		if ext := filepath.Ext(path); d.Name() == "Makefile" || ext == ".go" || ext == ".mod" {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// switches reads package mutant's constants from its source: a build without
// the tag, which this test is, does not have them.
func switches(t *testing.T) (mark, file string) {
	t.Helper()
	const source = "../../mutant/mutants.go"
	f, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if text, ok := v.Values[0].(*ast.BasicLit); ok && text.Kind == token.STRING {
			found[v.Names[0].Name], _ = strconv.Unquote(text.Value)
		}
		return true
	})
	// A shorter string could be anywhere by chance.
	if len(found["Mark"]) < 16 || len(found["File"]) < 16 {
		t.Fatalf("%s: Mark is %q, File is %q", source, found["Mark"], found["File"])
	}
	return found["Mark"], found["File"]
}

// build runs the lines of a Makefile target that build Go programs, exactly as
// make would, into a directory of its own, and wants those files. The target's other lines need the
// headers of a cluster's Slurm.
func build(t *testing.T, target string, want []string) string {
	t.Helper()
	dir := t.TempDir()
	dry := exec.Command("make", "-s", "-n", "-C", "../..", target, "BIN="+dir, "GO=go")
	// No flags of the make that runs this test.
	dry.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKEFLAGS=") || strings.HasPrefix(v, "MFLAGS=") || strings.HasPrefix(v, "MAKELEVEL=")
	}), "GOFLAGS=")
	lines, err := dry.Output()
	if err != nil {
		t.Fatalf("make -n %s: %v", target, err)
	}
	for line := range strings.Lines(string(lines)) {
		if !strings.Contains(line, "go build ") {
			continue
		}
		cmd := exec.Command("bash", "-euc", line)
		cmd.Dir, cmd.Env = "../..", dry.Env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.TrimSpace(line), err, out)
		}
	}
	made, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for i := range made {
		made[i] = filepath.Base(made[i])
	}
	slices.Sort(want)
	if fmt.Sprint(made) != fmt.Sprint(want) {
		t.Fatalf("make %s builds %q in Go, not %q", target, made, want)
	}
	return dir
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tagsOf are the build tags that the Go command wrote into the binary.
func tagsOf(t *testing.T, path string) []string {
	t.Helper()
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "-tags" {
			return strings.Split(s.Value, ",")
		}
	}
	return nil
}
