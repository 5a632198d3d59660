package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// probeTime is ample for a kernel and an initrd under real KVM (about a second); a KVM that
// does not work hangs for ever.
const probeTime = 8 * time.Second

// accelerator returns "kvm" where a guest really boots with it and "tcg", software emulation, otherwise.
// /dev/kvm being there says nothing. The answer is kept until the host reboots.
func accelerator(ctx context.Context, img *entry) (string, error) {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("probe KVM: %w", err)
	}
	root, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "accel")
	lock, err := lockExclusive(path + ".lock")
	if err != nil {
		return "", err
	}
	defer lock.unlock()
	if b, err := os.ReadFile(path); err == nil {
		if known, ok := strings.CutPrefix(string(b), string(bootID)); ok && (known == "kvm" || known == "tcg") {
			return known, nil
		}
	}
	accel := "tcg"
	if probeKVM(ctx, img) {
		accel = "kvm"
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, append(bootID, accel...), 0o644); err != nil {
		return "", fmt.Errorf("keep the KVM probe's answer: %w", err)
	}
	return accel, nil
}

func probeKVM(ctx context.Context, img *entry) bool {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return false
	} else {
		f.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", img.file("vmlinuz"), "-initrd", img.file("initrd.gz"), "-append", "console=ttyS0 quiet cluster.probe")
	out, err := cmd.Output()
	return err == nil && bytes.Contains(out, []byte("cluster: probe booted"))
}
