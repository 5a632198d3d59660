package attacks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What udev asks is libblkid: it must take the attackers' signatures for real,
// beside a file system that the node can mount.
func TestTheAttackersSignaturesAreThoseThatBlkidFinds(t *testing.T) {
	for want, sign := range map[string]func([]byte){
		"LVM2_member":       lvmSignature,
		"linux_raid_member": mdSignature,
		"ext4":              func([]byte) {},
	} {
		b, err := ext4Image(t.Context(), "cloister-37", "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
		if err != nil {
			t.Fatal(err)
		}
		sign(b)
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("blkid", "-p", "-o", "value", "-s", "TYPE", path)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("blkid finds %q, want %q: %v", got, want, err)
		}
	}
}
