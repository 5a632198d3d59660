//go:build linux && amd64

package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"cloister/tests/faults/call"

	"golang.org/x/sys/unix"
)

// A tracer is one thread: ptrace(2) serves only the thread that seized.
type tracer struct {
	noded  int            // the process that registered last
	who    map[int]string // of processes, by their number
	group  map[int]int    // the process of a thread
	orders call.Orders
	counts map[string]int
	trace  call.Trace
	begun  bool  // the session has a journal entry, or had one
	last   place // what phase found
	after  int   // the thread at whose return from a call noded is to die
	held   int   // the thread whose call is held
	until  <-chan time.Time
}

// options: whatever noded starts is traced, and a tracer that dies takes it along, so that no
// call fails for want of a tracer (seccomp(2): ENOSYS).
const options = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK |
	unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL

func serve() error {
	type work struct {
		pid  int
		r    request
		done chan answer
	}
	todo := make(chan work)
	// The kernel says with SIGCHLD that a traced thread stopped.
	stops := make(chan os.Signal, 1)
	signal.Notify(stops, unix.SIGCHLD)
	t := &tracer{}
	t.arm(call.Orders{})
	err := listen(func(pid int, r request) answer {
		w := work{pid, r, make(chan answer, 1)}
		todo <- w
		return <-w.done
	})
	if err != nil {
		return err
	}
	for {
		select {
		case w := <-todo:
			w.done <- t.do(w.pid, w.r)
		case <-stops:
			t.reap()
		case <-t.until:
			t.letGo()
		}
	}
}

func (t *tracer) do(pid int, r request) (a answer) {
	switch {
	case r.Register:
		_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, options, 0, 0)
		if errno != 0 {
			a.Error = fmt.Sprintf("seizing process %d: %v", pid, errno)
			return a
		}
		t.noded = pid
	case r.Release:
		t.letGo()
	case r.Arm != nil:
		t.letGo()
		t.arm(*r.Arm)
	default:
		a.Trace = t.trace
		a.Trace.Holding = t.held != 0
	}
	return a
}

func (t *tracer) arm(o call.Orders) {
	t.orders, t.counts, t.trace, t.begun, t.after = o, map[string]int{}, call.Trace{}, false, 0
	// Numbers of processes that ended are used again.
	t.who, t.group, t.last = map[int]string{}, map[int]int{}, place{}
}

// letGo has the call that is held go on.
func (t *tracer) letGo() {
	if t.held != 0 {
		t.resume(t.held, 0)
	}
	t.held, t.until = 0, nil
}

func (t *tracer) lost(doing string, tid int, err error) {
	// A thread that was killed is gone before its stop can be looked at.
	if err != unix.ESRCH && t.trace.Lost == "" {
		t.trace.Lost = fmt.Sprintf("%s of thread %d: %v", doing, tid, err)
	}
}

// resume lets a stopped thread go on.
func (t *tracer) resume(tid, signal int) {
	how := unix.PtraceCont
	if tid == t.after {
		how = unix.PtraceSyscall
	}
	if err := how(tid, signal); err != nil {
		t.lost("the going on", tid, err)
	}
}

// reap looks at every thread that has stopped.
func (t *tracer) reap() {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || tid == 0 {
			return
		}
		if !status.Stopped() {
			delete(t.who, tid)
			delete(t.group, tid)
			if tid == t.held {
				t.held, t.until = 0, nil
			}
			continue
		}
		t.stopped(tid, status.StopSignal(), int(status>>16))
	}
}

// stopped handles one stop. ptrace(2), "Stopped states".
func (t *tracer) stopped(tid int, signal unix.Signal, event int) {
	switch {
	case event == unix.PTRACE_EVENT_SECCOMP:
		t.entry(tid)
	case event == unix.PTRACE_EVENT_STOP && signal != unix.SIGTRAP:
		// The process was stopped by a signal, and stays so.
		if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_LISTEN, uintptr(tid), 0, 0, 0, 0); errno != 0 {
			t.lost("the stopping", tid, errno)
		}
	case event != 0:
		if event == unix.PTRACE_EVENT_EXEC {
			delete(t.who, tid)
			t.group[tid] = tid
		}
		t.resume(tid, 0)
	case signal == unix.SIGTRAP|0x80: // PTRACE_O_TRACESYSGOOD
		if tid == t.after {
			t.after = 0
			t.kill()
		}
		t.resume(tid, 0)
	default:
		t.resume(tid, int(signal))
	}
}

func (t *tracer) kill() {
	if err := unix.Kill(t.noded, unix.SIGKILL); err != nil {
		t.lost("the killing", t.noded, err)
	}
}

// entry is the stop before a call.
func (t *tracer) entry(tid int) {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		t.lost("the registers", tid, err)
		return
	}
	s := stop{t: t, tid: tid, regs: &regs}
	what, errno := s.describe()
	if what == "" {
		t.resume(tid, 0)
		return
	}
	name := t.phase() + ": " + t.program(tid) + " " + what
	t.counts[name]++
	c := call.Call{Name: name, N: t.counts[name]}
	t.trace.Calls = append(t.trace.Calls, c)
	if t.trace.Fired != "" || t.orders.Fault == call.None || c != t.orders.Call {
		t.resume(tid, 0)
		return
	}
	t.trace.Fired = string(t.orders.Fault)
	switch t.orders.Fault {
	case call.KillBefore:
		t.kill()
	case call.KillAfter:
		t.after = tid
	case call.Error:
		// No number of a call: it is not made, and what is in the register is its result.
		regs.Orig_rax, regs.Rax = ^uint64(0), uint64(-int64(errno))
		t.trace.Fired += fmt.Sprintf(" (%v)", errno)
		if err := unix.PtraceSetRegs(tid, &regs); err != nil {
			t.lost("the error", tid, err)
		}
	case call.Hold:
		t.held, t.until = tid, time.After(t.orders.Hold)
		return
	}
	t.resume(tid, 0)
}
