package noded

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"cloister/noded/helper"
)

// living are what stays among the freed strings, so that their pages cannot be given back whole.
var living []string

// TestMain runs a process that had a secret in many strings and lost them.
func TestMain(m *testing.M) {
	helper.Main()
	if os.Getenv("CLOISTER_TEST_FORGETS") == "" {
		os.Exit(m.Run())
	}
	forget(os.Stdin)
	if os.Getenv("CLOISTER_TEST_FORGETS") == "overwrites" {
		overwriteFreed()
	} else {
		runtime.GC()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has looked
	runtime.KeepAlive(living)
}

//go:noinline
func forget(r io.Reader) {
	half, err := bufio.NewReaderSize(r, 16).ReadString('\n')
	if err != nil {
		panic(err)
	}
	for i := range 4000 {
		s := strings.Repeat(half[:len(half)-1], 2)
		if i%100 == 0 {
			living = append(living, strings.Repeat("x", len(s)))
		}
	}
}

// copies counts the secret in the writable memory of a process.
func copies(t *testing.T, pid int, secret string) (n int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	read := 0
	for line := range strings.Lines(string(maps)) {
		var from, to uint64 // vsyscall lies above the signed range
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(mode, "rw") || to-from > 256<<20 {
			continue
		}
		b := make([]byte, to-from)
		k, _ := mem.ReadAt(b, int64(from))
		read += k
		n += bytes.Count(b[:k], []byte(secret))
	}
	if read == 0 {
		t.Fatal("no memory could be read")
	}
	return n
}

// left starts a process as TestMain describes and says how often the secret is in its memory.
func left(t *testing.T, how, godebug string) int {
	t.Helper()
	half := rand.Text()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"CLOISTER_TEST_FORGETS=" + how, "GODEBUG=" + godebug}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := io.WriteString(in, half+"\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process said %q, %v", line, err)
	}
	return copies(t, cmd.Process.Pid, half+half)
}

func TestWhatASessionLeftInMemoryIsOverwritten(t *testing.T) {
	unit, err := os.ReadFile("../systemd/cloister-noded.service")
	if err != nil {
		t.Fatal(err)
	}
	_, setting, found := strings.Cut(string(unit), "\nEnvironment=GODEBUG=")
	if !found {
		t.Fatal("the unit does not set GODEBUG")
	}
	setting, _, _ = strings.Cut(setting, "\n")
	if n := left(t, "overwrites", setting); n != 0 {
		t.Errorf("%d copies of a secret are left", n)
	}
	// The search finds what is not overwritten.
	if n := left(t, "collects", ""); n == 0 {
		t.Error("without overwriting, too, nothing was found")
	}
}
