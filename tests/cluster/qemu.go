package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
)

// A node is one guest and the QEMU process that runs it.
type node struct {
	spec   spec
	number int
	dir    string // the cluster's run directory: relative paths below are in it
	agent  *agent
	hasTPM bool

	mu   sync.Mutex
	proc *exec.Cmd
	done chan struct{} // closed when proc has ended
}

// A boot says how a guest comes up.
type boot struct {
	ns, accel, vmlinuz, initrd string
	ram                        string // file that holds the guest's memory; anonymous memory if empty
	shareRAM                   bool   // write the guest's memory to that file, instead of to a private copy of its pages
	incoming                   bool   // do not boot: wait for a saved state
}

func (n *node) overlay() string { return filepath.Join(n.dir, n.spec.Name+".qcow2") }
func (n *node) console() string { return filepath.Join(n.dir, n.spec.Name+".console") }
func (n *node) qmp() string     { return filepath.Join(n.dir, n.spec.Name+".qmp") }
func (n *node) pidFile() string { return filepath.Join(n.dir, n.spec.Name+".pid") }

// start runs QEMU for the guest.
func (n *node) start(ctx context.Context, b boot) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil {
		return fmt.Errorf("start %s: it runs", n.spec.Name)
	}
	for _, ext := range []string{".qmp", ".qga", ".shell"} {
		os.Remove(filepath.Join(n.dir, n.spec.Name+ext))
	}
	logFile, err := os.OpenFile(filepath.Join(n.dir, n.spec.Name+".qemu"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.spec.Name, err)
	}
	defer logFile.Close()
	cmd := exec.Command("ip", append([]string{"netns", "exec", b.ns, "qemu-system-x86_64"}, n.args(b)...)...)
	cmd.Dir = n.dir // keeps the socket paths short (sun_path holds 108 bytes)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// "ip netns exec" becomes QEMU, and the signal at the parent's death stays set over execve(2).
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := startOnKeptThread(cmd); err != nil {
		return fmt.Errorf("start %s: %w", n.spec.Name, err)
	}
	n.proc, n.done = cmd, make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { cmd.Wait(); close(done) }(cmd, n.done)
	return os.WriteFile(n.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

func (n *node) args(b boot) []string {
	name := n.spec.Name
	// -cx16: with cmpxchg16b, QEMU 7.2's emulation made kernel 6.12 panic in its allocator.
	cpu := "max,-cx16"
	accel := b.accel
	if accel == "kvm" {
		cpu = "host"
	} else {
		accel += ",thread=multi"
	}
	memory := "memory-backend-ram,id=ram,size=" + strconv.Itoa(n.spec.Memory) + "M"
	if b.ram != "" {
		memory = fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s", n.spec.Memory, b.ram, onOff(b.shareRAM))
	}
	args := []string{
		"-name", name, "-M", "q35,memory-backend=ram", "-object", memory, "-m", strconv.Itoa(n.spec.Memory),
		"-accel", accel, "-cpu", cpu, "-smp", "1",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-chardev", "file,id=console,path=" + name + ".console,append=on", "-serial", "chardev:console",
		"-qmp", "unix:" + name + ".qmp,server=on,wait=off",
		"-kernel", b.vmlinuz, "-initrd", b.initrd, "-append", n.spec.kernelArgs(n.number),
		// writeback: with unsafe, a killed QEMU loses disk metadata that the guest had synced
		"-drive", "file=" + name + ".qcow2,if=virtio,format=qcow2,cache=writeback,discard=unmap",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=qga,path=" + name + ".qga,server=on,wait=off",
		"-device", "virtserialport,chardev=qga,name=cluster.agent",
		"-chardev", "socket,id=shell,path=" + name + ".shell,server=on,wait=off",
		"-device", "virtconsole,chardev=shell",
		"-netdev", "tap,id=net,ifname=" + name + ",script=no,downscript=no",
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,mac=02:00:00:00:00:%02x", n.number+10),
	}
	if b.incoming {
		args = append(args, "-incoming", "defer")
	}
	return append(args, n.tpmArgs()...)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// kill ends QEMU as a power cut would and waits until it is gone.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.agent.close()
	if n.proc == nil {
		if b, err := os.ReadFile(n.pidFile()); err == nil { // of another process: see Attach
			killForeign(string(b))
		}
	} else {
		n.proc.Process.Kill()
		<-n.done
	}
	n.proc = nil
	os.Remove(n.pidFile())
}

func (n *node) alive() error {
	n.mu.Lock()
	done := n.done
	running := n.proc != nil
	n.mu.Unlock()
	if !running {
		return errors.New("not running")
	}
	select {
	case <-done:
		said, _ := os.ReadFile(filepath.Join(n.dir, n.spec.Name+".qemu"))
		return fmt.Errorf("%s: QEMU ended: %s", n.spec.Name, tail(string(said), 5))
	default:
		return nil
	}
}

// makeOverlay makes the guest's own disk on top of a read-only one.
func (n *node) makeOverlay(ctx context.Context, backing, format string) error {
	return command(ctx, "", "qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", format, n.overlay())
}

var (
	starterOnce sync.Once
	starterJobs = make(chan starterJob)
)

type starterJob struct {
	cmd  *exec.Cmd
	done chan error
}

// startOnKeptThread starts a command from a thread that lives as long as this process: the kernel sends
// the parent-death signal when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG).
func startOnKeptThread(cmd *exec.Cmd) error {
	starterOnce.Do(func() {
		go func() {
			runtime.LockOSThread()
			for j := range starterJobs {
				j.done <- j.cmd.Start()
			}
		}()
	})
	j := starterJob{cmd, make(chan error, 1)}
	starterJobs <- j
	return <-j.done
}
