package unlock

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cloister/policy"
)

// A cryptChoice is what a mapping gets of dm-crypt's options.
type cryptChoice struct{ noReadWorkqueue, noWriteWorkqueue, discard bool }

// choose makes the policy's options those of this volume. Discards only of what
// was made here: the file is sparse in any case, and its owner asked for no
// noise in the free space.
func (o *opening) choose() cryptChoice {
	fast := o.Crypt.Has(policy.CryptAuto) && solidState(o.file, "/sys")
	return cryptChoice{
		noReadWorkqueue:  fast || o.Crypt.Has(policy.CryptNoReadWorkqueue),
		noWriteWorkqueue: fast || o.Crypt.Has(policy.CryptNoWriteWorkqueue),
		discard:          o.Create && o.Crypt.Has(policy.CryptDiscard),
	}
}

// solidState reports whether a file lies on a disk of this node's that says it
// does not rotate (Documentation/ABI/stable/sysfs-block). A file system without
// one disk of its own, such as NFS, has no such entry: there the network is what
// takes the time, and the kernel's workers encrypt on all cores meanwhile.
func solidState(f *os.File, sys string) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return rotates(sys, st.Dev) == "0"
}

func rotates(sys string, dev uint64) string {
	disk := fmt.Sprintf("%s/dev/block/%d:%d", sys, unix.Major(dev), unix.Minor(dev))
	for _, queue := range []string{"/queue/rotational", "/../queue/rotational"} { // of a disk, of a partition
		if b, err := os.ReadFile(disk + queue); err == nil {
			return string(bytes.TrimSpace(b))
		}
	}
	return ""
}
