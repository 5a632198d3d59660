package unlock

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/policy"
)

func TestADiskIsFastIfItSaysSoItselfOrTheDiskOfItsPartition(t *testing.T) {
	sys := t.TempDir()
	disk := func(name, rotational string, numbers ...string) {
		t.Helper()
		dir := filepath.Join(sys, "devices", name)
		if err := os.MkdirAll(dir+"/queue", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/queue/rotational", []byte(rotational+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for i, n := range numbers {
			to := dir
			if i > 0 { // a partition lies in its disk's directory
				to = filepath.Join(dir, n)
				if err := os.Mkdir(to, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(sys+"/dev/block", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, filepath.Join(sys, "dev/block", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	disk("nvme0n1", "0", "259:0", "259:1")
	disk("sda", "1", "8:0", "8:1")
	for dev, want := range map[uint64]string{
		unix.Mkdev(259, 0): "0", unix.Mkdev(259, 1): "0", unix.Mkdev(8, 0): "1", unix.Mkdev(8, 1): "1",
		unix.Mkdev(0, 50): "", // NFS
	} {
		if got := rotates(sys, dev); got != want {
			t.Errorf("device %d:%d: %q, want %q", unix.Major(dev), unix.Minor(dev), got, want)
		}
	}
}

func TestTheAdministratorsOptionsCountAndFreedSpaceOfOwnersVolumesIsNotShown(t *testing.T) {
	f, err := os.Open("/proc/self/status") // on no disk
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		options policy.CryptOptions
		create  bool
		want    cryptChoice
	}{
		{nil, true, cryptChoice{}},
		{policy.CryptOptions{policy.CryptAuto}, true, cryptChoice{}},
		{policy.CryptOptions{policy.CryptNoReadWorkqueue}, false, cryptChoice{noReadWorkqueue: true}},
		{policy.CryptOptions{policy.CryptNoWriteWorkqueue, policy.CryptDiscard}, false, cryptChoice{noWriteWorkqueue: true}},
		{policy.CryptOptions{policy.CryptAuto, policy.CryptDiscard}, true, cryptChoice{discard: true}},
	} {
		o := opening{openRequest: openRequest{Crypt: c.options, Create: c.create}, file: f}
		if got := o.choose(); got != c.want {
			t.Errorf("%q, made here %v: %+v, want %+v", c.options, c.create, got, c.want)
		}
	}
}
