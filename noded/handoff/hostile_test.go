package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func datagram(fields ...string) []byte {
	return []byte("cloister=1\x00" + strings.Join(fields, "\x00") + "\x00")
}

// with is the batch request with one field replaced, or left out for "".
func with(name, field string) []byte {
	list := slices.DeleteFunc(slices.Clone(batch), func(f string) bool { return strings.HasPrefix(f, name+"=") })
	if field != "" {
		list = append(list, field)
	}
	return datagram(list...)
}

func dial(t *testing.T, socket string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestAnOddRequestIsSentAwayAndLeavesNoDescriptor(t *testing.T) {
	rd, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	defer wr.Close()
	good := open(t, script(t))
	writable, err := os.OpenFile(script(t), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writable.Close()
	dir := open(t, t.TempDir())
	pathOnly, err := unix.Open(good.Name(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pathOnly)
	ok := datagram(batch...)
	many := make([]int, 253)
	for i := range many {
		many[i] = int(good.Fd())
	}
	fd := func(f *os.File) []int { return []int{int(f.Fd())} }
	cases := []struct {
		name  string
		bytes []byte
		fds   []int
	}{
		{"no descriptor", ok, nil},
		{"two descriptors", ok, []int{int(good.Fd()), int(good.Fd())}},
		{"as many as the kernel passes", ok, many},
		{"a pipe", ok, fd(rd)},
		{"a directory", ok, fd(dir)},
		{"a device", ok, fd(open(t, "/dev/null"))},
		{"open for writing", ok, fd(writable)},
		{"a path only", ok, []int{pathOnly}},
		{"a descriptor with a step that is no batch step", with("step", "step=0"), fd(good)},
		{"a proof without its claim", with("step", "step=0\x00proof="+strings.Repeat("5a", 32)), nil},
		{"a short proof", with("step", "step=0\x00proof=5a"), fd(good)},
		{"a proof in capitals", with("step", "step=0\x00proof="+strings.Repeat("5A", 32)), fd(good)},
		{"a batch step of two tasks", with("ntasks", "ntasks=2"), fd(good)},
		{"a proof with a batch step", with("", "proof="+strings.Repeat("5a", 32)), fd(good)},
		{"a name twice", with("", "name=a\x00name=a"), fd(good)},
		{"a long name", with("", "name="+strings.Repeat("x", 256)), fd(good)},
		{"unknown field", with("", "shell=/bin/sh"), fd(good)},
		{"field twice", with("", "job=7"), fd(good)},
		{"no job", with("job", ""), fd(good)},
		{"no script", with("arg", ""), fd(good)},
		{"sign", with("job", "job=+7"), fd(good)},
		{"leading zero", with("job", "job=07"), fd(good)},
		{"33 bits", with("job", "job=4294967296"), fd(good)},
		{"empty number", with("job", "job="), fd(good)},
		{"secure of 2", with("secure", "secure=2"), fd(good)},
		{"relative cwd", with("cwd", "cwd=x"), fd(good)},
		{"another question", with("ask", "ask=shell"), fd(good)},
		{"an end first", datagram("ask=end", "status=0"), nil},
		{"another format", append([]byte("cloister=2"), ok[len("cloister=1"):]...), fd(good)},
		{"no end", ok[:len(ok)-1], fd(good)},
		{"no name", with("", "=x"), fd(good)},
		{"no equals", with("", "x"), fd(good)},
		{"too long", with("", "arg="+strings.Repeat("x", DatagramMax)), fd(good)},
		{"nothing", []byte{}, fd(good)},
	}
	called := make(chan struct{}, len(cases)+1)
	socket, stop := serve(t, func(context.Context, *Conn) { called <- struct{}{} })
	before := countDescriptors(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			u := dial(t, socket)
			if _, _, err := u.WriteMsgUnix(c.bytes, unix.UnixRights(c.fds...), nil); err != nil {
				t.Fatal(err)
			}
			u.SetReadDeadline(time.Now().Add(3 * time.Second))
			buf := make([]byte, DatagramMax)
			n, _, _, _, err := u.ReadMsgUnix(buf, nil)
			if err == nil && !strings.HasPrefix(string(buf[:n]), "cloister=1\x00verdict=refuse\x00message=") {
				t.Errorf("answered by %q", buf[:n])
			}
			if os.IsTimeout(err) {
				t.Error("neither answered nor hung up")
			}
		})
	}
	if len(called) != 0 {
		t.Errorf("%d of these reached the handler", len(called))
	}
	// the same request in order does, so it was not the harness
	u := dial(t, socket)
	if _, _, err := u.WriteMsgUnix(ok, unix.UnixRights(int(good.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-called:
	case <-time.After(3 * time.Second):
		t.Error("a good request did not reach the handler")
	}
	u.Close()
	for wait := 0; countDescriptors(t) > before && wait < 100; wait++ {
		time.Sleep(20 * time.Millisecond)
	}
	if after := countDescriptors(t); after > before {
		t.Errorf("%d descriptors were open, %d are", before, after)
	}
	stop()
}

func TestThoseWhoConnectAndSayNothingDoNotKeepOthersOut(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, c *Conn) { c.Pass() })
	for range Waiting + 10 {
		dial(t, socket)
	}
	step := with("step", "step=0")
	u := dial(t, socket)
	t0 := time.Now()
	if _, err := u.Write(step); err != nil {
		t.Fatal(err)
	}
	u.SetReadDeadline(time.Now().Add(3 * RequestTimeout))
	buf := make([]byte, 100)
	n, err := u.Read(buf)
	if err != nil || string(buf[:n]) != "cloister=1\x00verdict=pass\x00" {
		t.Fatalf("answered by %q, %v", buf[:n], err)
	}
	t.Logf("answered after %v", time.Since(t0))
}

func TestOthersThanRootAreNotHeard(t *testing.T) {
	called := make(chan struct{}, 1)
	socket, _ := serve(t, func(_ context.Context, c *Conn) { called <- struct{}{} })
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the socket's mode is %v, %v", st.Mode(), err)
	}
	// as if somebody had opened it up
	for dir := socket; dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&1 == 0 {
			os.Chmod(dir, 0o777)
		}
	}
	os.Chmod(socket, 0o666)
	got := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its uid
		got <- func() error {
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
				return e
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
				return err
			}
			unix.Send(fd, with("step", "step=0"), unix.MSG_NOSIGNAL)
			if n, _ := unix.Read(fd, make([]byte, 100)); n > 0 {
				return errors.New("it was answered")
			}
			return nil
		}()
	}()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if len(called) != 0 {
		t.Error("the handler was called")
	}
}

func TestListenTakesThePlaceOfASocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatalf("a socket that was left over is in the way: %v", err)
	}
	l.Close()
	os.Remove(path)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("an ordinary file was replaced")
	}
}

func TestAnAdmissionThatThePluginWouldNotTakeIsNotEncoded(t *testing.T) {
	for name, change := range map[string]func(*Admission){
		"variable twice":        func(a *Admission) { a.Env = []string{"A=1", "A=2"} },
		"HOME among them":       func(a *Admission) { a.Env = []string{"HOME=/x"} },
		"no name":               func(a *Admission) { a.Env = []string{"=1"} },
		"a function of bash":    func(a *Admission) { a.Env = []string{"BASH_FUNC_x%%=() { :; }"} },
		"a NUL":                 func(a *Admission) { a.Env = []string{"A=1\x00stdout=/etc/passwd"} },
		"relative home":         func(a *Admission) { a.Home = "x" },
		"line break in a path":  func(a *Admission) { a.Stdout = "/x\ny" },
		"no stderr":             func(a *Admission) { a.Stderr = "" },
		"too long":              func(a *Admission) { a.Env = []string{"A=" + strings.Repeat("x", DatagramMax)} },
		"too many variables":    func(a *Admission) { a.Env = slices.Repeat([]string{"A=1"}, envMax+1) },
		"a path that is longer": func(a *Admission) { a.Cwd = "/" + strings.Repeat("x", pathBytesMax) },
	} {
		a := Admission{Home: "/h", Cwd: "/c", Stdout: "/o", Stderr: "/e"}
		if _, err := a.encode(); err != nil {
			t.Fatalf("the harness: %v", err)
		}
		change(&a)
		if _, err := a.encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func fmtInode(name string, n uint64) string { return fmt.Sprintf("%s %d\n", name, n) }
