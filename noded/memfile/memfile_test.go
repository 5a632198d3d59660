package memfile

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatIsHandedOverIsReadAndCannotBeChanged(t *testing.T) {
	f, err := New("test", []byte("known"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := Read(f, 5); err != nil || string(b) != "known" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := f.WriteAt([]byte("X"), 0); err == nil {
		t.Error("the file took other bytes")
	}
	if _, err := Read(f, 4); err == nil {
		t.Error("a file above the limit was read")
	}
}

// withSeals is a file in memory with these seals.
func withSeals(t *testing.T, seal int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { f.Close() })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seal); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOnlyASealedFileIsRead(t *testing.T) {
	if _, err := Read(withSeals(t, seals), 0); err != nil {
		t.Errorf("a sealed file: %v", err)
	}
	for _, missing := range []int{unix.F_SEAL_WRITE, unix.F_SEAL_GROW, unix.F_SEAL_SHRINK, unix.F_SEAL_SEAL} {
		if _, err := Read(withSeals(t, seals&^missing), 0); err == nil {
			t.Errorf("a file without the seal %#x was read", missing)
		}
	}
	disk, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if _, err := Read(disk, 0); err == nil {
		t.Error("a file on a disk was read")
	}
}
