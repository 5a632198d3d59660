package helper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"cloister/mutant"

	"golang.org/x/sys/unix"
)

// Main does a helper's work and exits, if this process is a helper; else it
// returns at once. A program that uses this package calls it first in main,
// and a test binary in TestMain.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != argv0 {
		return
	}
	if len(os.Args) == 2 && os.Args[1] == holdVerb {
		hold()
		os.Exit(0)
	}
	if err := serve(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", argv0, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve() error {
	// no_new_privs belongs to a thread, so the work stays on the one that sets it.
	runtime.LockOSThread()
	unix.CloseOnExec(socketFD)
	conn, err := unixConn(socketFD)
	if err != nil {
		return err
	}
	first, files, err := receive(conn)
	if errors.Is(err, errClosed) {
		return nil // a spare that nobody needed
	}
	if err != nil {
		return err
	}
	closeAll(files)
	var s start
	if err := json.Unmarshal(first, &s); err != nil {
		return fmt.Errorf("decoding the start message: %w", err)
	}
	verb := verbs[s.Verb]
	if verb == nil {
		return fmt.Errorf("unknown verb %q", s.Verb)
	}
	if err := drop(s.User); err != nil {
		return err
	}
	body, files, err := receive(conn)
	if err != nil {
		return err
	}
	// The caller sends nothing more: when this read returns, it gave up or died,
	// and whatever the handler waits for is wanted by nobody. (A parent-death
	// signal would follow the caller's thread, which Go may end at any time.)
	go func() {
		conn.Read(make([]byte, 1))
		os.Exit(1)
	}()
	reply, out, err := verb.handle(body, files)
	var a answer
	if err == nil {
		a.Reply, err = json.Marshal(reply)
	}
	if err != nil {
		a = answer{Error: err.Error()}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			a.Errno = int(errno)
		}
		out = nil
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, _, err := conn.WriteMsgUnix(data, rights(out), nil); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return nil
}

// drop gives up for good everything that u does not have. It is done by the
// helper itself and not at fork, because the identity changes after exec leave
// the process undumpable: the user's other processes can then neither trace
// this one nor reach its socket through /proc.
func drop(u *User) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	unix.Umask(0o077)
	if u == nil || mutant.Removed(mutant.UserRights) {
		return nil
	}
	if u.UID == 0 || u.GID == 0 {
		return fmt.Errorf("acting as uid %d, gid %d: root is no user", u.UID, u.GID)
	}
	groups := make([]int, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = int(g)
	}
	// package syscall, not unix: these apply to every thread of the process.
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("setting supplementary groups: %w", err)
	}
	if err := syscall.Setresgid(int(u.GID), int(u.GID), int(u.GID)); err != nil {
		return fmt.Errorf("setting gid %d: %w", u.GID, err)
	}
	if err := syscall.Setresuid(int(u.UID), int(u.UID), int(u.UID)); err != nil {
		return fmt.Errorf("setting uid %d: %w", u.UID, err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("setting the process undumpable: %w", err)
	}
	return nil
}
