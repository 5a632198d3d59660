//go:build guest

package unlock

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A device that is suspended answers nothing, as one does whose file server is
// dead.
func TestAVolumeWhoseFileServerIsDeadKeepsNoOtherOpen(t *testing.T) {
	s := session(t)
	dmsetup := func(table string, args ...string) {
		t.Helper()
		cmd := exec.Command("dmsetup", args...)
		cmd.Stdin = strings.NewReader(table)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("dmsetup %q: %v: %s", args, err, out)
		}
	}
	f, err := os.Create(t.TempDir() + "/server")
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(1<<20))
	loop, err := attachLoop(f, 0, 1<<20, false) // it has a cache to be flushed
	check(t, err)
	defer loop.Close()
	server := "server-" + s
	dmsetup("0 2048 linear "+loop.Name()+" 0", "create", server)
	t.Cleanup(func() { exec.Command("dmsetup", "remove", "--retry", server).Run() })
	dead, healthy := name(s, 0, crypt), name(s, 1, crypt)
	dmsetup("0 2048 linear /dev/mapper/"+server+" 0", "create", dead)
	dmsetup("0 2048 zero", "create", healthy)
	dmsetup("", "suspend", "--noflush", server)
	t.Cleanup(func() { exec.Command("dmsetup", "resume", server).Run() })

	if err := Close(t.Context(), s); err == nil || !strings.Contains(err.Error(), dead) || strings.Contains(err.Error(), healthy) {
		t.Errorf("closing beside a dead server: %v", err)
	}
	if names, err := List(s); err != nil || !slices.Equal(names, []string{dead}) {
		t.Errorf("left: %q, %v", names, err)
	}
	dmsetup("", "resume", server)
	check(t, Close(t.Context(), s))
}
