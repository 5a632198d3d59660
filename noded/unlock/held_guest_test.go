//go:build guest

package unlock

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// apart is a file system that nobody else has, and a file on it that this process
// has; its mount is gone.
func apart(t *testing.T) (dev uint64, f *os.File) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	held(t, st.Dev, true, "a mount and a descriptor")
	return st.Dev, f
}

func held(t *testing.T, dev uint64, want bool, what string) {
	t.Helper()
	if got, err := heldByProcess(dev); err != nil || got != want {
		t.Errorf("%s: held %v, %v", what, got, err)
	}
}

func TestADescriptorIsAProcesssAndOneInASocketIsNobodys(t *testing.T) {
	dev, f := apart(t)
	held(t, dev, true, "a descriptor")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	held(t, dev, false, "a descriptor on its way")
}

func TestAMappingInMemoryIsAProcesss(t *testing.T) {
	dev, f := apart(t)
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	held(t, dev, true, "a mapping")
	if err := unix.Munmap(b); err != nil {
		t.Fatal(err)
	}
	held(t, dev, false, "nothing")
}

// Whoever has a mount namespace has all that is mounted in it.
func TestAMountNamespaceWithoutAProcessHoldsWhatMayBeInIt(t *testing.T) {
	dev, f := apart(t)
	f.Close()
	held(t, dev, false, "nothing")
	lives := exec.Command("unshare", "--mount", "cat")
	in, err := lives.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := lives.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := lives.Start(); err != nil {
		t.Fatal(err)
	}
	in.Write([]byte("x"))
	out.Read(make([]byte, 1)) // it is in its namespace
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(lives.Process.Pid), "ns/mnt"))
	if err != nil {
		t.Fatal(err)
	}
	held(t, dev, false, "the namespace of a process that lives")
	in.Close()
	lives.Wait()
	held(t, dev, true, "the namespace of a process that ended")
	ns.Close()
	held(t, dev, false, "nothing again")
}
