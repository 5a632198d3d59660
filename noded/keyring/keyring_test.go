package keyring

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/noded/helper"
)

// someUser is nobody's: the test leaves empty keyrings behind.
const someUser = 2999

func TestMain(m *testing.M) {
	helper.Main()
	if len(os.Args) == 3 && os.Args[1] == "act" {
		act(os.Args[2])
	}
	os.Exit(m.Run())
}

// act runs as the user.
func act(verb string) {
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
	}
	os.Exit(0)
}

func as(t *testing.T, verb string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "act", verb)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: someUser, Gid: someUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestKeysThatAUserLeftInHerKeyringsAreGone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to act as a user")
	}
	if out := as(t, "leave"); out != "" {
		t.Fatal(out)
	}
	if out := as(t, "find"); !strings.Contains(out, "found") {
		t.Fatalf("a key does not outlive its user's processes on this kernel: %q", out)
	}
	for range 2 {
		if err := Wipe(t.Context(), someUser, someUser); err != nil {
			t.Fatal(err)
		}
		if out := as(t, "find"); out != "" {
			t.Error(out)
		}
	}
}
