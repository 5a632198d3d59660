//go:build linux && amd64

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is the number of a thread's process.
func (t *tracer) process(tid int) int {
	if pid, ok := t.group[tid]; ok {
		return pid
	}
	pid := tid
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok {
			pid, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	t.group[tid] = pid
	return pid
}

// program is who calls: noded, the verb of a helper, or another program.
func (t *tracer) program(tid int) string {
	pid := t.process(tid)
	if who, ok := t.who[pid]; ok {
		return who
	}
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	argv := strings.Split(string(b), "\x00")
	t.who[pid] = programOf(argv[0], strings.Join(argv[1:min(2, len(argv))], ""))
	return t.who[pid]
}

func programOf(argv0, argv1 string) string {
	switch name := filepath.Base(argv0); name {
	case "cloister-noded":
		return "noded"
	case "cloister-noded-helper": // package noded/helper; one that was started ahead has no verb
		return cmp.Or(argv1, "helper")
	default:
		return name
	}
}

// journalDir is where noded's session journal lies.
var journalDir = "/run/cloister/sessions"

// A place is where the session was by a journal entry, which is another file
// each time that it is written.
type place struct {
	entry string // "" if nothing is known
	inode uint64
	phase string
}

// phase is where the session is, by its journal.
func (t *tracer) phase() string {
	var st unix.Stat_t
	if p := t.last; p.entry != "" && unix.Stat(p.entry, &st) == nil && st.Ino == p.inode {
		return p.phase
	}
	t.last = place{}
	names, _ := filepath.Glob(journalDir + "/[0-9a-f]*.json")
	for _, name := range names {
		// Before it is read: if it is replaced meanwhile, it is read again.
		if unix.Stat(name, &st) != nil {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var r struct {
			Begun     []string
			Releasing bool
		}
		if json.Unmarshal(b, &r) != nil {
			continue
		}
		t.begun = true
		step := "nothing"
		if n := len(r.Begun); n > 0 {
			step = r.Begun[n-1]
		}
		if r.Releasing {
			step = "undo " + step
		}
		t.last = place{name, st.Ino, step}
		return step
	}
	if t.begun {
		return "end"
	}
	return "admit"
}

// A stop is a thread before a call.
type stop struct {
	t    *tracer
	tid  int
	regs *unix.PtraceRegs
}

// arg is an argument of the call.
func (s stop) arg(i int) uint64 {
	r := s.regs
	return [...]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}[i]
}

// fd is an argument that is a descriptor.
func (s stop) fd(i int) int { return int(int32(s.arg(i))) }

// memory reads at most n bytes of the thread's memory. What is not there is
// left out.
func (s stop) memory(at uint64, n int) []byte {
	if at == 0 || n <= 0 {
		return nil
	}
	b := make([]byte, n)
	// A page at a time: the kernel reads all of a piece or nothing.
	read := 0
	for read < n {
		size := min(n-read, 4096-int((at+uint64(read))%4096))
		local := []unix.Iovec{{Base: &b[read]}}
		local[0].SetLen(size)
		k, err := unix.ProcessVMReadv(s.tid, local, []unix.RemoteIovec{{Base: uintptr(at) + uintptr(read), Len: size}}, 0)
		if err != nil || k == 0 {
			break
		}
		read += k
	}
	return b[:read]
}

// text reads a string that ends with a zero byte, in pieces too small for a
// secret that lies behind it: the tracer's own memory is searched too.
func (s stop) text(at uint64) string {
	const piece = 8
	var b []byte
	for len(b) < unix.PathMax {
		next := s.memory(at+uint64(len(b)), piece-int(at+uint64(len(b)))%piece)
		end := bytes.IndexByte(next, 0)
		if end >= 0 || len(next) == 0 {
			return string(append(b, next[:max(end, 0)]...))
		}
		b = append(b, next...)
	}
	return string(b)
}

// file names what a descriptor is open on.
func (s stop) file(fd int) string {
	name, err := os.Readlink("/proc/" + strconv.Itoa(s.tid) + "/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "?"
	}
	return strings.TrimSuffix(name, " (deleted)")
}

// path names a file relative to a directory's descriptor.
func (s stop) path(dir int, at uint64) string {
	p := s.text(at)
	switch {
	case filepath.IsAbs(p):
		return p
	case dir == unix.AT_FDCWD:
		return filepath.Join("./", p)
	case p == "":
		return s.file(dir)
	}
	return filepath.Join(s.file(dir), p)
}
