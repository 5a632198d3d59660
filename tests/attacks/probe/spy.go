package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// spy looks at every process of the given user again and again and notes in a
// file what it got of them: spy NOTES UID SECRET. The notes are one line a
// finding, each once: the process's control group, a space, what was got.
func spy(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: spy NOTES UID SECRET")
	}
	notes, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a tracer is a thread
	signal.Ignore()
	known := map[string]bool{}
	for {
		for _, found := range look(args[1], []byte(args[2])) {
			if !known[found] {
				known[found] = true
				fmt.Fprintln(notes, found)
			}
		}
		time.Sleep(time.Second)
	}
}

func look(uid string, secret []byte) (found []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	note := func(group, what string) { found = append(found, group+" "+what) }
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		status, _ := os.ReadFile(dir + "/status")
		if pid == os.Getpid() || !bytes.Contains(status, []byte("\nUid:\t"+uid+"\t")) {
			continue
		}
		// Not other spies, nor what started them: the job lives in another view.
		own, _ := os.Readlink("/proc/self/ns/mnt")
		if ns, err := os.Readlink(dir + "/ns/mnt"); err == nil && ns == own {
			continue
		}
		// 0::PATH (cgroups(7)); everybody may read it.
		b, _ := os.ReadFile(dir + "/cgroup")
		group := strings.TrimSpace(strings.TrimPrefix(string(b), "0::"))
		if os.Getuid() != atoi(uid) { // the rest needs the same user
			if cmd, err := os.ReadFile(dir + "/cmdline"); err == nil && bytes.Contains(cmd, []byte("slurm_script")) {
				note(group, "saw its command line")
			}
			continue
		}
		if b, err := os.ReadFile(dir + "/root/data/secret.txt"); err == nil && bytes.Contains(b, secret) {
			note(group, "read its file through /proc/PID/root")
		}
		if b, err := os.ReadFile(dir + "/environ"); err == nil && len(b) > 0 {
			note(group, "read its environment")
		}
		if memory(dir) {
			note(group, "read its memory")
		}
		if err := syscall.PtraceAttach(pid); err == nil {
			syscall.Wait4(pid, nil, syscall.WALL, nil)
			syscall.PtraceDetach(pid)
			// What was waited for may be another stop than the attach's, which
			// would then stop it for good.
			syscall.Kill(pid, syscall.SIGCONT)
			note(group, "traced it")
		}
		if syscall.Kill(pid, 0) == nil {
			note(group, "could signal it")
		}
	}
	return found
}

func atoi(s string) int { n, _ := strconv.Atoi(s); return n }

// memory reports whether the process's first mapping can be read.
func memory(dir string) bool {
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return false
	}
	start, _, _ := strings.Cut(string(maps), "-")
	at, err := strconv.ParseInt(start, 16, 64)
	if err != nil {
		return false
	}
	f, err := os.Open(dir + "/mem")
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.ReadAt(make([]byte, 16), at)
	return err == nil
}

// cling holds files open and does not mind any signal that can be ignored.
func cling(args []string) error {
	for _, a := range args {
		if _, err := os.Open(a); err != nil {
			return err
		}
	}
	signal.Ignore()
	for {
		time.Sleep(time.Hour)
	}
}
