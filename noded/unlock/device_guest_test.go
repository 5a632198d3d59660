//go:build guest

package unlock

import (
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/policy"
	"cloister/volume"
)

func TestTheOptionsReachTheKernelAndFreedSpaceGoesBack(t *testing.T) {
	s := session(t)
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, 64<<20, true)
	check(t, err)
	f, err := os.Create(t.TempDir() + "/v.luks")
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(pinned.End()))
	o, err := Open(t.Context(), s, Volume{
		File: f, Pinned: pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey, Create: true, UID: uid, GID: gid,
		Crypt: policy.CryptOptions{policy.CryptNoReadWorkqueue, policy.CryptNoWriteWorkqueue, policy.CryptDiscard},
	})
	check(t, err)
	defer o.Mount.Close()
	table, err := exec.Command("dmsetup", "table", o.Names[0]).CombinedOutput()
	check(t, err)
	for _, option := range []string{"no_read_workqueue", "no_write_workqueue", "allow_discards"} {
		if !strings.Contains(string(table), option) {
			t.Errorf("the table lacks %s: %s", option, table)
		}
	}
	root, err := at(t, o, ".", unix.O_RDONLY|unix.O_DIRECTORY) // Mount itself is O_PATH, which syncfs does not take
	check(t, err)
	defer root.Close()
	blocks := func() int64 {
		t.Helper()
		check(t, unix.Syncfs(int(root.Fd())))
		var st unix.Stat_t
		check(t, unix.Fstat(int(f.Fd()), &st))
		return st.Blocks * 512
	}
	w, err := at(t, o, "big", unix.O_CREAT|unix.O_WRONLY)
	check(t, err)
	noise := make([]byte, 16<<20)
	rand.Read(noise)
	_, err = w.Write(noise)
	check(t, err)
	full := blocks()
	check(t, w.Truncate(0))
	check(t, w.Close())
	var freed int64
	for until := time.Now().Add(20 * time.Second); freed < 15<<20 && time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		freed = full - blocks()
	}
	if freed < 15<<20 {
		t.Errorf("of 16 MiB that were freed, %d bytes went back", freed)
	}
}
