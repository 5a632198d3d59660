package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hostAddress is the host's own end of the bridge, inside the cluster's network namespace.
	hostAddress = "10.77.0.1"
	netnsPrefix = "cloister-"
)

// makeNetwork makes a network namespace with a bridge and a tap for each guest. It has no link to any
// other namespace: that is what keeps everything beyond the bridge out of reach.
func makeNetwork(ctx context.Context, ns string) error {
	var b strings.Builder
	b.WriteString("link set lo up\nlink add br0 type bridge\n")
	fmt.Fprintf(&b, "addr add %s/24 dev br0\nlink set br0 up\n", hostAddress)
	for _, s := range specs {
		fmt.Fprintf(&b, "tuntap add dev %s mode tap\nlink set %s master br0 up\n", s.Name, s.Name)
	}
	if err := command(ctx, "", "ip", "netns", "add", ns); err != nil {
		return err
	}
	return command(ctx, b.String(), "ip", "-n", ns, "-batch", "-")
}

func deleteNetwork(ns string) {
	exec.Command("ip", "netns", "del", ns).Run() // gone already is as good
}

// command runs a host program and puts what it said into the error.
func command(ctx context.Context, stdin string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// listenInside opens a TCP listener on the bridge's host end. A socket belongs for ever to the namespace
// of the thread that made it.
func listenInside(ns string) (net.Listener, error) {
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	onOwnThread(func() {
		l, err := func() (net.Listener, error) {
			f, err := os.Open(filepath.Join("/run/netns", ns))
			if err != nil {
				return nil, err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			return net.Listen("tcp4", hostAddress+":0")
		}()
		done <- result{l, err}
	})
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("listen in network namespace %s: %w", ns, r.err)
	}
	return r.l, nil
}

// onOwnThread runs f on a thread that ends with it, so that a namespace which f enters needs no way back. The main
// thread cannot end: it would stay in the namespace, and make the whole process look as if it were in there.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread() // after f, which meanwhile cannot get this thread
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
			f()
		}()
		<-ended
	}()
}

// sweep removes what crashed owners left: a run directory whose lock is free, its guests, its namespace.
// The caller holds the lock over the run directory, so nobody is just making one.
func sweep(runs string) {
	dirs, err := os.ReadDir(runs)
	if err != nil {
		return
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		dir := filepath.Join(runs, d.Name())
		lock, err := tryLock(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		ns := netnsPrefix + d.Name()
		killInside(ns)
		deleteNetwork(ns)
		os.RemoveAll(dir)
		lock.unlock()
	}
}

// killInside ends every process of a network namespace of ours.
func killInside(ns string) {
	for range 50 {
		out, err := exec.Command("ip", "netns", "pids", ns).Output()
		pids := strings.Fields(string(out))
		if err != nil || len(pids) == 0 {
			return
		}
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid != os.Getpid() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}
