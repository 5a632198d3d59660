//go:build linux

// Command socketpeer talks to noded's socket as Slurm's plugin never would. It
// runs on a node of the test cluster:
//
//	socketpeer ask UID   one request in order, as that user; prints the answer or why
//	                     there is none
//	socketpeer flood     nonsense of every kind, then thousands of connections; prints
//	                     what was not refused, and how many there were
package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const socket = "/run/cloister/noded.sock"

// A step of an ordinary job, as the plugin describes it.
var step = []string{"cloister=1", "ask=launch", "job=7", "step=0", "uid=2002", "gid=2002", "nnodes=1", "nodeid=0", "ntasks=1",
	"restart=0", "arrayjob=0", "arraytask=0", "secure=0", "arg=/bin/true", "cwd=/"}

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "ask":
		if err := become(os.Args[2]); err != nil {
			fmt.Println("harness:", err)
			os.Exit(1)
		}
		answer, err := ask(datagram(step...), nil, 30*time.Second)
		if err != nil {
			fmt.Println("no answer:", err)
			return
		}
		fmt.Printf("answered: %s\n", strings.ReplaceAll(answer, "\x00", " "))
	case len(os.Args) == 2 && os.Args[1] == "flood":
		if err := flood(); err != nil {
			fmt.Println("harness:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: socketpeer ask UID | flood")
		os.Exit(2)
	}
}

// become has all threads be the user's, with the group of the same number. A program
// that was started as the user would mostly be ended by noded before it asks.
func become(user string) error {
	uid, err := strconv.Atoi(user)
	if err != nil {
		return err
	}
	return cmp.Or(syscall.Setgroups(nil), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid))
}

func datagram(fields ...string) []byte { return []byte(strings.Join(fields, "\x00") + "\x00") }

// connect tries for a while: the listener's queue is short.
func connect(patience time.Duration) (*net.UnixConn, error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if !errors.Is(err, unix.EAGAIN) || time.Since(began) > patience {
			return c, err
		}
	}
}

func ask(request []byte, fds []int, patience time.Duration) (string, error) {
	c, err := connect(patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(request, rights, nil); err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// nonsense is what noded must refuse, by its name.
func nonsense() (map[string][]byte, map[string][]int, error) {
	batch := datagram(slices.Concat(step[:3], []string{"step=4294967291"}, step[4:])...)
	requests := map[string][]byte{
		"no field":      {0},
		"random bytes":  []byte("\xff\x00\x01GET / HTTP/1.1\r\n\r\n"),
		"field twice":   datagram(append(step, "job=8")...),
		"unknown field": datagram(append(step, "shell=/bin/sh")...),
		"no end":        []byte("cloister=1\x00ask=launch"),
		"an end first":  datagram("cloister=1", "ask=end", "status=0"),
		"oversized":     slices.Concat(datagram(step...), slices.Repeat([]byte("arg=x\x00"), 12000)),
		"batch without": batch,
	}
	fds := map[string][]int{}
	for name, o := range map[string]struct {
		path  string
		flags int
	}{
		"directory": {"/", unix.O_RDONLY}, "device": {"/dev/zero", unix.O_RDONLY}, "writable": {"/run/socketpeer", unix.O_RDWR | unix.O_CREAT},
		"path only": {"/etc/passwd", unix.O_PATH}, "memory": {"/dev/mem", unix.O_RDONLY}, "namespace": {"/proc/self/ns/mnt", unix.O_RDONLY},
	} {
		fd, err := unix.Open(o.path, o.flags, 0o600)
		if name == "memory" && err != nil {
			continue // locked down
		}
		if err != nil {
			return nil, nil, fmt.Errorf("opening %s: %w", o.path, err)
		}
		requests[name], fds[name] = batch, []int{fd}
	}
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		return nil, nil, err
	}
	requests["pipe"], fds["pipe"] = batch, []int{pipe[0]}
	requests["253 pipes"], fds["253 pipes"] = batch, slices.Repeat([]int{pipe[0]}, 253)
	requests["a step with a pipe"], fds["a step with a pipe"] = datagram(step...), []int{pipe[0]}
	return requests, fds, nil
}

const (
	junkConnections = 3000
	silentFor       = 12 * time.Second
)

func flood() error {
	requests, fds, err := nonsense()
	if err != nil {
		return err
	}
	for name, request := range requests {
		answer, err := ask(request, fds[name], 60*time.Second)
		if err == nil && answer != "" && !strings.HasPrefix(answer, "cloister=1\x00verdict=refuse\x00") {
			fmt.Printf("taken: %s: %q\n", name, answer)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			fmt.Printf("taken: %s: neither an answer nor an end\n", name)
		}
	}

	var silent []*net.UnixConn
	for began := time.Now(); time.Since(began) < silentFor; {
		if c, err := connect(0); err == nil {
			silent = append(silent, c)
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
	junk := 0
	for deadline := time.Now().Add(90 * time.Second); junk < junkConnections && time.Now().Before(deadline); {
		c, err := connect(10 * time.Second)
		if err != nil {
			return err
		}
		c.Write([]byte("\xff\xff"))
		c.Close()
		junk++
	}
	fmt.Printf("sent: %d kinds of nonsense, %d silent connections, %d with junk\n", len(requests), len(silent), junk)
	answer, err := ask(datagram(step...), nil, 2*time.Minute)
	if err != nil {
		fmt.Println("no answer:", err)
		return nil
	}
	fmt.Printf("answered: %s\n", strings.ReplaceAll(answer, "\x00", " "))
	return nil
}
