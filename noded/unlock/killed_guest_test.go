//go:build guest

package unlock

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/volume"
)

// openAndBeKilled is a daemon that dies by kill -9 with a volume open.
func openAndBeKilled(dir string) {
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, 32<<20, false)
	if err == nil {
		var f *os.File
		if f, err = os.Create(dir + "/v.luks"); err == nil {
			f.Truncate(pinned.End())
			_, err = Open(context.Background(), filepath.Base(dir), Volume{
				File: f, Pinned: pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey, Create: true, Job: jobID, UID: uid, GID: gid,
			})
		}
	}
	fmt.Println(err)
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func TestWhatAKilledDaemonLeftIsFoundAndClosedByNameAlone(t *testing.T) {
	s := session(t)
	dir := t.TempDir() + "/" + s
	check(t, os.Mkdir(dir, 0o700))
	out, err := exec.Command("/proc/self/exe", "open-and-be-killed", dir).CombinedOutput()
	if strings.TrimSpace(string(out)) != "<nil>" {
		t.Fatalf("%v: %s", err, out)
	}
	if found, err := Sessions(); err != nil || len(found) != 1 || found[0] != s {
		t.Fatalf("found %v, %v", found, err)
	}
	check(t, Close(t.Context(), s))
	nothingLeft(t, s)
}

// alone waits until no other process of this program is left.
func alone(t *testing.T) {
	t.Helper()
	self, err := os.Readlink("/proc/self/exe")
	check(t, err)
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		others := 0
		processes, err := filepath.Glob("/proc/[0-9]*/exe")
		check(t, err)
		for _, p := range processes {
			// One that ended meanwhile is no error.
			if exe, err := os.Readlink(p); err == nil && exe == self && p != fmt.Sprintf("/proc/%d/exe", os.Getpid()) {
				others++
			}
		}
		if others == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d helper processes are left", others)
		}
	}
}

func TestADaemonKilledAtAnyMomentOfOpeningLeavesNothingThatCloseCannotFind(t *testing.T) {
	start := func() (*exec.Cmd, string) {
		s := session(t)
		dir := t.TempDir() + "/" + s
		check(t, os.Mkdir(dir, 0o700))
		cmd := exec.Command("/proc/self/exe", "open-and-be-killed", dir)
		check(t, cmd.Start())
		return cmd, s
	}
	begin := time.Now()
	cmd, s := start()
	cmd.Wait()
	whole := time.Since(begin)
	check(t, Close(t.Context(), s))
	midway := 0
	for i := 1; i <= 6; i++ {
		cmd, s := start()
		time.Sleep(whole * time.Duration(i+3) / 10)
		cmd.Process.Kill()
		cmd.Wait()
		if names, _ := List(s); len(names) > 0 {
			midway++
		}
		alone(t) // the helper notices that its caller is gone
		check(t, Close(t.Context(), s))
		nothingLeft(t, s)
	}
	t.Logf("a whole run takes %v; %d of 6 were killed with a mapping open", whole, midway)
}

// Between the device-mapper's commands a mapping has a name and no table, or a
// table, with its key, that is not in use yet.
func TestAMappingThatWasNotFinishedIsFoundAndClosed(t *testing.T) {
	for _, c := range []struct {
		left  string
		steps []string
		open  bool
	}{
		{left: "a name", steps: []string{"create --notable"}},
		{left: "a table", steps: []string{"create --notable", "load"}},
		{left: "a table that somebody holds", steps: []string{"create --notable", "load"}, open: true},
	} {
		t.Run(c.left, func(t *testing.T) {
			s := session(t)
			n := name(s, 0, crypt)
			for _, step := range c.steps {
				cmd := exec.Command("dmsetup", append(strings.Fields(step), n)...)
				cmd.Stdin = strings.NewReader("0 2048 zero")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("dmsetup %s: %v: %s", step, err, out)
				}
			}
			if found, err := Sessions(); err != nil || !slices.Contains(found, s) {
				t.Fatalf("found %q, %v", found, err)
			}
			if !c.open {
				check(t, Close(t.Context(), s))
				nothingLeft(t, s)
				return
			}
			check(t, exec.Command("dmsetup", "mknodes", n).Run())
			f, err := os.Open("/dev/mapper/" + n)
			check(t, err)
			if err := Close(t.Context(), s); !errors.Is(err, ErrBusy) {
				t.Errorf("closed while it was held: %v", err)
			}
			if out, err := exec.Command("dmsetup", "table", "--inactive", n).Output(); err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("the table is left: %v: %s", err, out)
			}
			check(t, f.Close())
			// The kernel removes it in the background.
			for until := time.Now().Add(5 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
				if names, err := List(s); err == nil && len(names) == 0 {
					break
				}
			}
			nothingLeft(t, s)
		})
	}
}

func TestAVolumeThatStaysBusyLosesItsKey(t *testing.T) {
	m, s := makeVolume(t, true), session(t)
	o, err := m.open(t, s, 0, false)
	check(t, err)
	f, err := at(t, o, "big", unix.O_RDONLY)
	check(t, err)
	check(t, o.Mount.Close())
	begin := time.Now()
	err = Close(t.Context(), s)
	t.Logf("closed by force in %v: %v", time.Since(begin), err)
	if !errors.Is(err, ErrBusy) {
		t.Errorf("closing a busy volume: %v", err)
	}
	table, _ := exec.Command("dmsetup", "table", "--showkeys").CombinedOutput()
	if strings.Contains(string(table), "aes-xts") || !strings.Contains(string(table), " error") || strings.Contains(string(table), fmt.Sprintf("%x", m.keys.VolumeKey.Reveal()[:8])) {
		t.Errorf("the key is still in the kernel:\n%s", table)
	}
	t.Logf("table: %s", table)
	if _, err := f.ReadAt(make([]byte, 4096), 2<<20); err == nil {
		t.Error("a block that was in no cache was read")
	}
	f.Close()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if names, _ := List(s); len(names) == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatal("the device stays after its last user")
		}
	}
}
