package lockdown

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/pulse"
)

// Strangers are processes that may not come up while a node is locked: people's
// (IsPerson), and programs that let people in, whoever
// started them. Needs root in the first user, process and network namespace.
type Strangers struct {
	// Keep are control groups whose processes are no strangers; it is asked at
	// each look.
	Keep func() []string
}

// loginPrograms let people in over a network or loopback. A unit that runs one
// is a door; these are also ended where somebody starts one by hand.
var loginPrograms = []string{"sshd", "sshd-session", "sshd-auth", "dropbear", "telnetd", "in.telnetd", "rlogind", "in.rlogind", "rshd", "in.rshd"}

// Watch ends strangers as they come up until ctx ends. The kernel announces
// each execution and each change of user (the process events connector,
// linux/cn_proc.h). report hears of each process that was ended.
//
// An error means that strangers can no longer be noticed or ended.
func (s Strangers) Watch(ctx context.Context, report func(string)) error {
	events, err := processEvents()
	if err != nil {
		return fmt.Errorf("watching for processes: %w", err)
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	look := true
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		if look {
			if err := s.end(ctx, report); err != nil && ctx.Err() == nil {
				return fmt.Errorf("watching for processes: %w", err)
			}
		}
		events.SetReadDeadline(time.Now().Add(recheck))
		if ctx.Err() != nil { // the deadline above may have undone stop's
			break
		}
		n, err := events.Read(buf)
		switch {
		case err == nil:
			look = s.announces(buf[:n])
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ENOBUFS):
			look = true
		default:
			return fmt.Errorf("watching for processes: %w", err)
		}
	}
	return nil
}

// endLimit bounds the killing of one lot of processes.
const endLimit = 5 * time.Second

func (s Strangers) end(ctx context.Context, report func(string)) error {
	if mutant.Removed(mutant.ProcessWatch) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	ended, err := hunt{first: (*Process).readStatus, worth: comesIn, match: s.foreign}.end(ctx)
	for _, p := range ended {
		report("process " + p.String() + " was started; ended")
	}
	return err
}

// is reports whether a process is a stranger.
func (s Strangers) is(p Process) bool { return comesIn(p) && s.foreign(p) }

// foreign: it is in none of the control groups that are kept.
func (s Strangers) foreign(p Process) bool {
	for _, k := range s.Keep() {
		if p.Cgroup == k || strings.HasPrefix(p.Cgroup, k+"/") {
			return false
		}
	}
	return true
}

// comesIn: it is a person's, or lets people in. Its real user counts: a daemon
// of root's that borrows a person's rights for a moment, as slurmstepd does, is
// still root's.
func comesIn(p Process) bool {
	// Without the defence that ends such processes at the lock they must live
	// on, for its test to fail.
	person := IsPerson(p.UIDs[0]) && !mutant.Removed("end-foreign")
	return person || letsIn(p.PID) && !mutant.Removed(mutant.StopSSH)
}

func letsIn(pid int) bool {
	exe, err := os.Readlink(filepath.Join(procDir, strconv.Itoa(pid), "exe"))
	return err == nil && slices.Contains(loginPrograms, strings.TrimSuffix(filepath.Base(exe), " (deleted)"))
}

// OwnGroup is this process's control group.
func OwnGroup() string {
	p, err := process(os.Getpid())
	if err != nil || p == nil {
		return "?" // no control group has that name: nothing is kept
	}
	return p.Cgroup
}

// Offsets into an announcement: a netlink header of 16 bytes, struct cn_msg of
// 20, struct proc_event of what, cpu, timestamp and the event's own data.
const (
	eventWhat = 16 + 20
	eventPID  = eventWhat + 16
	eventTGID = eventPID + 4
	eventRUID = eventTGID + 4

	procEventExec = 0x00000002
	procEventUID  = 0x00000004
)

// announces reports whether an announcement is of what may be a stranger.
func (s Strangers) announces(b []byte) bool {
	if len(b) < eventRUID+4 {
		return false
	}
	pid := int(binary.NativeEndian.Uint32(b[eventTGID:]))
	switch binary.NativeEndian.Uint32(b[eventWhat:]) {
	case procEventUID:
		if !IsPerson(binary.NativeEndian.Uint32(b[eventRUID:])) {
			return false
		}
	case procEventExec:
		if !letsIn(pid) {
			return false
		}
	default:
		return false
	}
	p, err := process(pid)
	return err == nil && p != nil && s.is(*p)
}

// The process events connector, linux/connector.h and linux/cn_proc.h.
const (
	cnProcIndex  = 1 // CN_IDX_PROC, CN_VAL_PROC and the multicast group
	procCNListen = 1 // PROC_CN_MCAST_LISTEN
)

// processEvents subscribes to executions and changes of user; a filter in the
// kernel drops the rest, such as forks.
func processEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("opening the process events connector: %w", err)
	}
	f := os.NewFile(uintptr(fd), "process events")
	// The filter's loads are big-endian, the event's fields are the machine's.
	swapped := func(what uint32) uint32 { return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, what)) }
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: eventWhat},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(procEventExec), Jt: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped(procEventUID), Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		f.Close()
		return nil, fmt.Errorf("filtering process events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnProcIndex}); err != nil {
		f.Close()
		return nil, fmt.Errorf("joining the process events connector: %w", err)
	}
	e := binary.NativeEndian
	m := e.AppendUint32(nil, 16+20+4) // the netlink header: length, type, flags, sequence, port
	m = e.AppendUint16(m, unix.NLMSG_DONE)
	m = append(m, make([]byte, 2+4+4)...)
	m = e.AppendUint32(e.AppendUint32(m, cnProcIndex), cnProcIndex)
	m = append(m, make([]byte, 4+4)...) // sequence, acknowledgement
	m = e.AppendUint16(m, 4)            // length of the data
	m = append(m, make([]byte, 2)...)
	m = e.AppendUint32(m, procCNListen)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("asking for process events: %w", err)
	}
	return f, nil
}
