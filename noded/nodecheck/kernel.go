package nodecheck

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// missingFromKernel asks the kernel for what a session needs. The questions
// make it load what is a module.
func missingFromKernel() []string {
	var wrong []string
	for _, target := range []string{"crypt", "verity"} {
		if err := hasTarget(target); err != nil {
			wrong = append(wrong, fmt.Sprintf("the kernel has no device-mapper target %s: %v; modprobe dm_%[1]s", target, err))
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		wrong = append(wrong, fmt.Sprintf("the kernel has no loop devices: %v; modprobe loop", err))
	}
	if err := hasFilter(); err != nil {
		wrong = append(wrong, fmt.Sprintf("the kernel has no nf_tables: %v; modprobe nf_tables", err))
	}
	return wrong
}

// dmIoctl is struct dm_ioctl of linux/dm-ioctl.h.
type dmIoctl struct {
	version                 [3]uint32
	dataSize, dataStart     uint32
	targetCount             uint32
	openCount               int32
	flags, eventNr, padding uint32
	dev                     uint64
	name                    [128]byte
	uuid                    [129]byte
	data                    [7]byte
	room                    [256]byte // for the answer, after dataStart
}

// dmGetTargetVersion is DM_GET_TARGET_VERSION: _IOWR(0xfd, 17, struct dm_ioctl)
// with a size of 312 bytes; since Linux 5.10 or so, interface 4.41.
const dmGetTargetVersion = 3<<30 | 312<<16 | 0xfd<<8 | 17

func hasTarget(name string) error {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	question := dmIoctl{version: [3]uint32{4, 0, 0}}
	question.dataSize = uint32(unsafe.Sizeof(question))
	question.dataStart = uint32(unsafe.Offsetof(question.room))
	copy(question.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), dmGetTargetVersion, uintptr(unsafe.Pointer(&question))); errno != 0 {
		return errno
	}
	return nil
}

func hasFilter() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	return err
}
