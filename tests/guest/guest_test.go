//go:build cluster

package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
)

// node is where the tests run: on-demand, so nothing there is locked yet.
const node = cluster.S2

// perPackage bounds one package's tests: emulation on a busy host is slow.
const perPackage = 10 * time.Minute

func TestPackagesOnASecureNodesKernel(t *testing.T) {
	found, err := filepath.Glob("../../noded/*/guest_test.go")
	if err != nil || len(found) == 0 {
		t.Fatalf("no guest tests found: %v", err)
	}
	images, err := analysis.Tiny(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := cluster.ForTest(t, cluster.Options{})
	put := func(local, remote string, mode os.FileMode) {
		t.Helper()
		if err := c.Put(t.Context(), node, local, remote, mode); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Output(t.Context(), node, "mkdir -p /var/guest"); err != nil {
		t.Fatal(err)
	}
	put(images.SIF, "/var/guest/tiny.sif", 0o644)
	for _, path := range found {
		name := filepath.Base(filepath.Dir(path))
		t.Run(name, func(t *testing.T) {
			local := bundle(t, name)
			remote := "/var/guest/" + name
			put(local, remote+".tar", 0o644)
			// The guest's own /tmp is memory; files for loop devices lie on its disk.
			script := fmt.Sprintf("mkdir -p %[1]s && cd %[1]s && tar -xf %[1]s.tar && rm %[1]s.tar && "+
				"TMPDIR=/var/guest GUEST_NFS_HOME=/shared/home/alice GUEST_SIF=/var/guest/tiny.sif "+
				"exec ./test -test.v -test.timeout %[2]s 2>&1", remote, perPackage)
			began := time.Now()
			r, err := c.Run(t.Context(), node, script, cluster.Timeout(perPackage+time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s on %s: exit %d after %.1f s\n%s", name, node, r.Exit, time.Since(began).Seconds(), terse(r.Stdout))
			if r.Exit != 0 {
				t.Fail()
			}
		})
	}
}

// bundle compiles the package's test binary and packs it with its testdata.
// The C library here is older than the guest's, which its symbol versions allow.
func bundle(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join("../../noded", name)
	run := func(name string, args ...string) {
		t.Helper()
		if b, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, b)
		}
	}
	run("go", "test", "-c", "-tags", "guest", "-o", dir+"/test", "cloister/noded/"+name)
	args := []string{"-cf", dir + "/all.tar", "-C", dir, "test"}
	if _, err := os.Stat(source + "/testdata"); err == nil {
		args = append(args, "-C", mustAbs(t, source), "testdata")
	}
	run("tar", args...)
	return dir + "/all.tar"
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// terse leaves out the lines that say only that a test begins.
func terse(out string) string {
	var keep []string
	for _, line := range strings.Split(out, "\n") {
		if !strings.HasPrefix(line, "=== ") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n")
}
