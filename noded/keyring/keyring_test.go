package keyring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/helper"
)

// someUser is nobody's: the test leaves empty keyrings behind.
const someUser = 2999

// lockedUsers are the first of those whose keyrings stay locked until a boot.
// They are others with each run of the tests.
var lockedUsers = 1_000_000 + uint32(time.Now().UnixNano()/1e6%1_000_000)*100

func TestMain(m *testing.M) {
	helper.Main()
	if len(os.Args) == 3 && os.Args[1] == "act" {
		act(os.Args[2])
	}
	os.Exit(m.Run())
}

// act runs as the user.
func act(verb string) {
	runtime.LockOSThread() // whose the process keyring is
	switch verb {
	case "leave":
		for _, ring := range []int{unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING} {
			if _, err := unix.AddKey("user", "left", []byte("secret"), ring); err != nil {
				os.Stdout.WriteString(err.Error())
			}
		}
		if id, err := unix.KeyctlInt(getPersistent, -1, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0); err == nil {
			if _, err := unix.AddKey("user", "left", []byte("secret"), id); err != nil {
				os.Stdout.WriteString(err.Error())
			}
		}
	case "find":
		for _, ring := range []int{unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING} {
			if _, err := unix.KeyctlSearch(ring, "user", "left", 0); !errors.Is(err, unix.ENOKEY) {
				os.Stdout.WriteString("found")
			}
		}
		if id, err := unix.KeyctlInt(getPersistent, -1, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0); err == nil {
			if _, err := unix.KeyctlSearch(id, "user", "left", 0); !errors.Is(err, unix.ENOKEY) {
				os.Stdout.WriteString("found persistent")
			}
		}
	case "lock", "lock-session":
		ring := map[string]int{"lock": unix.KEY_SPEC_USER_KEYRING, "lock-session": unix.KEY_SPEC_USER_SESSION_KEYRING}[verb]
		say(unix.KeyctlSetperm(ring, 0))
	case "revoke":
		_, err := unix.KeyctlInt(unix.KEYCTL_REVOKE, unix.KEY_SPEC_USER_KEYRING, 0, 0, 0)
		say(err)
	case "invalidate":
		_, err := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, unix.KEY_SPEC_USER_KEYRING, 0, 0, 0)
		say(err)
	case "expire":
		_, err := unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, unix.KEY_SPEC_USER_KEYRING, 1, 0, 0)
		say(err)
		time.Sleep(1100 * time.Millisecond)
	case "fill":
		// The user's other keyrings are made when they are first asked for.
		id, err := unix.KeyctlInt(getPersistent, -1, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
		say(err)
		for i, size := 0, 4096; size > 0; {
			if _, err = unix.AddKey("user", fmt.Sprintf("fill-%d", i), make([]byte, size), id); err != nil {
				size /= 2
				continue
			}
			i++
		}
		if !errors.Is(err, unix.EDQUOT) {
			say(fmt.Errorf("the quota is not used up: %v", err))
		}
	case "fill-locked":
		// Keys that their user may only view, in a keyring that she can't reach.
		for i := 0; ; i++ {
			if _, err := unix.AddKey("user", fmt.Sprintf("fill-%d", i), make([]byte, 4096), unix.KEY_SPEC_USER_KEYRING); err != nil {
				break
			}
		}
		say(unix.KeyctlSetperm(unix.KEY_SPEC_USER_KEYRING, 0))
	}
	if perm, ok := strings.CutPrefix(verb, "hide "); ok {
		p, err := strconv.ParseUint(perm, 16, 32)
		say(err)
		id, err := unix.AddKey("user", "left", []byte("secret"), unix.KEY_SPEC_USER_KEYRING)
		say(err)
		say(unix.KeyctlSetperm(id, uint32(p)))
		say(unix.KeyctlSetperm(unix.KEY_SPEC_USER_KEYRING, 0))
		fmt.Print(id)
	}
	if id, ok := strings.CutPrefix(verb, "read "); ok {
		id, err := strconv.Atoi(id)
		say(err)
		if b := make([]byte, 64); len(b) > 0 {
			if n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, b, len(b)); err == nil {
				fmt.Printf("%s", b[:n])
			}
		}
	}
	os.Exit(0)
}

func say(err error) {
	if err != nil {
		fmt.Print(err)
	}
}

func as(t *testing.T, verb string) string {
	t.Helper()
	return asUser(t, someUser, verb)
}

func asUser(t *testing.T, uid uint32, verb string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root, to act as a user")
	}
	cmd := exec.Command("/proc/self/exe", "act", verb)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestKeysThatAUserLeftInHerKeyringsAreGone(t *testing.T) {
	if out := as(t, "leave"); out != "" {
		t.Fatal(out)
	}
	if out := as(t, "find"); !strings.Contains(out, "found") {
		t.Fatalf("a key does not outlive its user's processes on this kernel: %q", out)
	}
	for range 2 {
		if kept, err := Wipe(t.Context(), someUser, someUser); err != nil || kept != "" {
			t.Fatal(kept, err)
		}
		if out := as(t, "find"); out != "" {
			t.Error(out)
		}
	}
}

// newUser has keyrings that nobody has touched.
func newUser() uint32 {
	lockedUsers++
	return lockedUsers
}

func TestAKeyringThatItsUserLockedIsToldAndFailsNothing(t *testing.T) {
	for _, c := range []struct{ does, kept string }{
		{"lock", "user"},
		{"lock-session", "user session"},
		{"revoke", "user"},
		{"expire", "user"},
		{"fill-locked", "user"},
	} {
		t.Run(c.does, func(t *testing.T) {
			uid := newUser()
			if out := asUser(t, uid, "leave") + asUser(t, uid, c.does); out != "" {
				t.Fatal(out)
			}
			for range 2 {
				if kept, err := Wipe(t.Context(), uid, uid); err != nil || !strings.Contains(kept, "clearing the "+c.kept+" keyring: ") {
					t.Errorf("kept %q, %v, want the %s keyring", kept, err, c.kept)
				}
			}
			// The others are cleared all the same.
			if out := asUser(t, uid, "find"); strings.Contains(out, "persistent") {
				t.Error(out)
			}
		})
	}
}

func TestAUserWhoseQuotaIsUsedUpKeepsNothing(t *testing.T) {
	uid := newUser()
	if out := asUser(t, uid, "fill"); out != "" {
		t.Fatal(out)
	}
	if kept, err := Wipe(t.Context(), uid, uid); err != nil || kept != "" {
		t.Errorf("kept %q, %v", kept, err)
	}
	if out := asUser(t, uid, "leave"); out != "" {
		t.Errorf("the user has no quota afterwards: %s", out)
	}
}

func TestAnInvalidKeyringIsGone(t *testing.T) {
	uid := newUser()
	if out := asUser(t, uid, "leave") + asUser(t, uid, "invalidate"); out != "" {
		t.Fatal(out)
	}
	if kept, err := Wipe(t.Context(), uid, uid); err != nil || kept != "" {
		t.Errorf("kept %q, %v", kept, err)
	}
	if out := asUser(t, uid, "find"); out != "" {
		t.Error(out)
	}
}

func TestAKeyInALockedKeyringThatItsUserCanReadByItsNumberIsGone(t *testing.T) {
	for perm, left := range map[string]string{
		"3f3f0000": "", // all
		"3f070000": "", // view, read, write: revoked
		"3f0b0000": "", // view, read, search: made invalid
		"3f130000": "", // view, read, link: possessed, and then it may do all
		"3f230000": "", // view, read, change attributes: revoked
		"3f010000": "", // what a key has when it's made: nobody can read it
		// What can't be helped.
		"3f030000": "secret", // view, read
		"3f3e0000": "secret", // all but view
	} {
		t.Run(perm, func(t *testing.T) {
			uid := newUser()
			id := asUser(t, uid, "hide "+perm)
			if out := asUser(t, uid, "read "+id); out != "secret" && perm != "3f010000" {
				t.Fatalf("key %s reads %q before", id, out)
			}
			if kept, err := Wipe(t.Context(), uid, uid); err != nil || kept == "" {
				t.Errorf("kept %q, %v", kept, err)
			}
			if out := asUser(t, uid, "read "+id); out != left {
				t.Errorf("key %s reads %q", id, out)
			}
		})
	}
}
