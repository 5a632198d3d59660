package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What is measured natively runs in namespaces of its own: a Slurm, a packet
// filter or mounts of the machine are neither seen nor touched, the ports and
// the host name are free, and all of it ends with the first process inside,
// also when this program is killed.
const (
	initName   = "cloister-bench-init"
	workerName = "cloister-bench-worker"
	// hostName and hostAddress (RFC 5737, TEST-NET-1) are the machine's inside.
	hostName    = "bench"
	hostAddress = "192.0.2.1"
)

// A native is what the program inside is told.
type native struct {
	Parts []string
	Dir   string // an empty file system in memory, readable by everybody
	Top   string // the repository
	Pairs int
	Calm  time.Duration
}

// run starts this program anew in the namespaces.
func (n native) run(ctx context.Context) error {
	top, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("finding the repository: %w", err)
	}
	n.Top = strings.TrimSpace(string(top))
	if n.Dir, err = os.MkdirTemp("", "cloister-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(n.Dir)
	told, err := json.Marshal(n)
	if err != nil {
		return err
	}
	// The death signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{initName, string(told)}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = cleanEnvironment()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
		Setpgid:    true, // Ctrl-C comes here only, and ctx then kills what is inside
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("measuring in namespaces of its own (%s): %w", strings.Join(n.Parts, ", "), err)
	}
	return nil
}

// cleanEnvironment has nothing of a Slurm job or of a Slurm that is set up here.
func cleanEnvironment() (out []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SLURM") && !strings.HasPrefix(v, "SBATCH") && !strings.HasPrefix(v, "SRUN") {
			out = append(out, v)
		}
	}
	return out
}

// inside is this program's other two lives: the first process of its
// namespaces, and the one that measures. It returns in neither.
func inside() {
	switch os.Args[0] {
	case initName:
		code, err := firstProcess()
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: "+err.Error())
			code = 1
		}
		os.Exit(code)
	case workerName:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := measureInside(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench: "+err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// firstProcess makes the namespaces fit to live in, starts the worker and
// buries what daemons leave behind.
func firstProcess() (int, error) {
	if len(os.Args) != 2 {
		return 1, errors.New("no word on what to measure")
	}
	var n native
	if err := json.Unmarshal([]byte(os.Args[1]), &n); err != nil {
		return 1, err
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 1, fmt.Errorf("making all mounts private: %w", err)
	}
	if err := unix.Mount("none", "/proc", "proc", 0, ""); err != nil {
		return 1, fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("none", n.Dir, "tmpfs", 0, "mode=0755"); err != nil {
		return 1, fmt.Errorf("mounting %s: %w", n.Dir, err)
	}
	if err := unix.Sethostname([]byte(hostName)); err != nil {
		return 1, fmt.Errorf("setting the host name: %w", err)
	}
	hosts := filepath.Join(n.Dir, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+hostAddress+" "+hostName+"\n"), 0o644); err != nil {
		return 1, err
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return 1, fmt.Errorf("mounting /etc/hosts: %w", err)
	}
	worker, err := os.StartProcess(self, []string{workerName, os.Args[1]}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 1, fmt.Errorf("starting the worker: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 1, fmt.Errorf("waiting for the worker: %w", err)
		}
		if pid == worker.Pid {
			if status.Signaled() {
				return 1, fmt.Errorf("the worker got signal %v", status.Signal())
			}
			return status.ExitStatus(), nil
		}
	}
}

func measureInside(ctx context.Context) error {
	var n native
	if err := json.Unmarshal([]byte(os.Args[1]), &n); err != nil {
		return err
	}
	// getaddrinfo(3) finds a host's IPv4 address only where an interface other
	// than the loopback has one (AI_ADDRCONFIG): Slurm could not find itself.
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "n0", "type", "veth", "peer", "name", "n1"},
		{"addr", "add", hostAddress + "/24", "dev", "n0"},
		{"link", "set", "n0", "up"},
		{"link", "set", "n1", "up"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	// Slurm comes last: the locking of the network would cut its connections.
	for _, part := range n.Parts {
		var err error
		switch part {
		case "network":
			err = measureNetwork(ctx)
		case "view":
			err = n.measureViews(ctx)
		case "slurm":
			err = n.measureSlurm(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
