package cluster

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// run runs a program of QEMU's tools.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func TestADiskIsWhatTheOverlayItselfHoldsInTheGuestsOrder(t *testing.T) {
	dir := t.TempDir()
	base, overlay := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "overlay.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "16M")
	run(t, "qemu-io", "-c", "write -P 0x11 0 1M", base)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
	// Written out of order: the overlay's clusters lie in another order than the guest's.
	for _, c := range []string{"write -P 0x33 8M 64k", "write -P 0x22 4M 64k", "write -P 0x44 8256k 64k", "write -z 12M 64k"} {
		run(t, "qemu-io", "-c", c, overlay)
	}
	d, err := openOverlay(t.Context(), overlay)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Join([][]byte{bytes.Repeat([]byte{0x22}, 64<<10), bytes.Repeat([]byte{0x33}, 64<<10), bytes.Repeat([]byte{0x44}, 64<<10)}, nil)
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d; they differ", len(got), len(want))
	}
	part := make([]byte, 2000)
	if n, err := d.ReadAt(part, 64<<10-1000); n != 2000 || err != nil || part[999] != 0x22 || part[1000] != 0x33 {
		t.Errorf("across two extents: %d bytes, %v, % x", n, err, part[998:1002])
	}
	if n, err := d.ReadAt(part, d.Size()-500); n != 500 || err != io.EOF {
		t.Errorf("across the end: %d bytes, %v", n, err)
	}
}

func TestAMachinesMemoryIsSavedWholeAndItGoesOn(t *testing.T) {
	dir := t.TempDir()
	// A machine of firmware alone, stopped before its first instruction.
	cmd := exec.Command("qemu-system-x86_64", "-M", "q35", "-m", "64", "-S", "-nodefaults", "-display", "none", "-qmp", "unix:n.qmp,server=on,wait=off")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	n := &node{spec: spec{Name: "n", Memory: 64}, dir: dir, proc: cmd, done: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "memory")
	if err := n.saveMemory(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 64<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if !bytes.Contains(b, []byte("SeaBIOS")) { // the firmware's copy below 1 MiB
		t.Error("the firmware is not in it")
	}
	err = n.monitor(t.Context(), func(m *monitor) error {
		out, err := m.do("query-status", nil)
		if err == nil && !bytes.Contains(out, []byte(`"running": true`)) {
			t.Errorf("afterwards: %s", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
