package handoff

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func admission(t *testing.T) Admission {
	return Admission{
		Env: []string{"PATH=/usr/bin:/bin", "X=a=b\nc"}, Home: "/home/alice", Cwd: "/work",
		Stdout: "/results/o", Stderr: "/results/e", Messages: []string{"admitted"},
		MountNS: open(t, "/proc/self/ns/mnt"), IPCNS: open(t, "/proc/self/ns/ipc"),
	}
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestThePluginGetsWhatWasAdmittedAndItsEndArrives(t *testing.T) {
	a := admission(t)
	got := make(chan Request, 1)
	text := make(chan string, 1)
	ended := make(chan End, 1)
	socket, _ := serve(t, func(ctx context.Context, c *Conn) {
		got <- c.Request
		b, _ := io.ReadAll(c.Request.Script)
		text <- string(b)
		if err := c.Admit(a); err != nil {
			t.Error(err)
		}
		if c.Refuse("late") == nil {
			t.Error("a second verdict was sent")
		}
		e, err := c.WaitEnd(ctx)
		if err != nil {
			t.Error(err)
		}
		ended <- e
		if err := c.Released("released: all closed"); err != nil {
			t.Error(err)
		}
	})
	c := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...)
	said := c.answer()
	r := <-got
	if r.Job != 7 || !r.Batch() || r.UID != 2001 || len(r.Groups) != 2 || r.Groups[1] != 44 ||
		!r.Secure || len(r.Arguments) != 2 || r.Arguments[1] != "a b" || r.Cwd != "/home/alice" {
		t.Errorf("the request arrived as %+v", r)
	}
	if b := <-text; b != "#!/bin/sh\n" {
		t.Errorf("the script arrived as %q", b)
	}
	for _, want := range []string{"verdict admit\n", "message admitted\n", "env PATH=/usr/bin:/bin\n", "env X=a=b\nc\n",
		"home /home/alice\n", "cwd /work\n", "stdout /results/o\n", "stderr /results/e\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("the plugin did not get %q, but\n%s", want, said)
		}
	}
	for name, f := range map[string]*os.File{"mnt": a.MountNS, "ipc": a.IPCNS} {
		if want := fmtInode(name, inode(t, f)); !strings.Contains(said, want) {
			t.Errorf("the plugin did not get the namespace %q, but\n%s", want, said)
		}
	}
	c.end(256)
	if said := c.answer(); said != "verdict released\nmessage released: all closed\n" {
		t.Errorf("the end was answered by\n%s", said)
	}
	if e := <-ended; e.Died || e.Status != 256 {
		t.Errorf("the end arrived as %+v", e)
	}
}

func TestARefusalReachesThePluginWhateverIsInItsMessages(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, c *Conn) {
		if c.Refuse() == nil {
			t.Error("a refusal without a reason was sent")
		}
		messages := []string{"bad\x1b[2J\nline\x00\xff", strings.Repeat("ä", 900), "plain"}
		for len(messages) < 100 {
			messages = append(messages, strings.Repeat("x", 2000))
		}
		if err := c.Refuse(messages...); err != nil {
			t.Error(err)
		}
	})
	said := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...).answer()
	for _, want := range []string{"verdict refuse\n", "message bad?[2J?line??\n", "message plain\n", "message " + strings.Repeat("ä", 512) + "\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("the plugin did not get %.80q, but\n%.400s", want, said)
		}
	}
}

func TestAHandlerWithoutVerdictRefuses(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, c *Conn) {
		a := admission(t)
		a.Env = []string{"HOME=/twice"}
		if c.Admit(a) == nil {
			t.Error("an admission that the plugin would not take was sent")
		}
	})
	said := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...).answer()
	if !strings.HasPrefix(said, "verdict refuse\nmessage refused in phase hand-off: cloister-noded gave no verdict\nmessage next: ") {
		t.Errorf("the plugin got\n%s", said)
	}
}

func TestAnOrdinaryStepPassesWithoutADescriptor(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, c *Conn) {
		if c.Request.Script != nil {
			t.Error("a step that is no batch step has a script")
		}
		if err := c.Pass(); err != nil {
			t.Error(err)
		}
	})
	step := append([]string(nil), batch...)
	step[2] = "step=0"
	if said := startClient(t, socket, step...).answer(); said != "verdict pass\n" {
		t.Errorf("the plugin got\n%s", said)
	}
}

func TestAProvenStepJoinsWithItsClaimAndItsDirectory(t *testing.T) {
	a, text := admission(t), make(chan string, 1)
	proof := strings.Repeat("5a", 32)
	socket, _ := serve(t, func(_ context.Context, c *Conn) {
		b, _ := io.ReadAll(c.Request.Claim)
		text <- c.Request.Proof + string(b)
		if c.Join("relative", a.MountNS, a.IPCNS) == nil || c.Join("/a\nb", a.MountNS, a.IPCNS) == nil {
			t.Error("a directory that the plugin would not take was sent")
		}
		if err := c.Join("/data", a.MountNS, a.IPCNS); err != nil {
			t.Error(err)
		}
	})
	step := append([]string{"--script", script(t)}, batch...)
	step[4] = "step=0"
	said := startClient(t, socket, append(step, "proof="+proof)...).answer()
	if want := "verdict join\ncwd /data\n" + fmtInode("mnt", inode(t, a.MountNS)) + fmtInode("ipc", inode(t, a.IPCNS)); said != want {
		t.Errorf("the plugin got\n%s", said)
	}
	if got := <-text; got != proof+"#!/bin/sh\n" {
		t.Errorf("noded got %q", got)
	}
}

func TestThePluginRefusesNamespacesThatAreNone(t *testing.T) {
	a := admission(t)
	a.IPCNS = open(t, "/etc/passwd")
	socket, _ := serve(t, func(_ context.Context, c *Conn) { c.Admit(a) })
	said := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...).answer()
	if !strings.HasPrefix(said, "error the answer's descriptors are no namespaces") {
		t.Errorf("the plugin got\n%s", said)
	}
}

func TestThePluginGivesUpOnAServerThatIsSilent(t *testing.T) {
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	socket, _ := serve(t, func(_ context.Context, c *Conn) {
		<-hold
	})
	t0 := time.Now()
	said := startClient(t, socket, append([]string{"--seconds", "1", "--script", script(t)}, batch...)...).answer()
	if !strings.HasPrefix(said, "error waiting for an answer: ") || time.Since(t0) > 5*time.Second {
		t.Errorf("after %v the plugin said %q", time.Since(t0), said)
	}
	hold <- struct{}{}
}

func TestAKilledSlurmstepdIsNoticed(t *testing.T) {
	a, ended := admission(t), make(chan time.Time, 1)
	socket, _ := serve(t, func(ctx context.Context, c *Conn) {
		if err := c.Admit(a); err != nil {
			t.Error(err)
		}
		e, err := c.WaitEnd(ctx)
		ended <- time.Now()
		if err != nil || !e.Died {
			t.Errorf("the end arrived as %+v, %v", e, err)
		}
	})
	c := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...)
	c.answer()
	select {
	case <-ended:
		t.Fatal("an end before there was one")
	case <-time.After(100 * time.Millisecond):
	}
	killed := time.Now()
	c.cmd.Process.Signal(syscall.SIGKILL)
	t.Logf("noticed after %v", (<-ended).Sub(killed))
}

func TestASessionGoesOnWithTheNextNoded(t *testing.T) {
	a, kept := admission(t), make(chan *os.File, 1)
	socket, stop := serve(t, func(ctx context.Context, c *Conn) {
		f, err := c.File()
		if err != nil {
			t.Error(err)
		}
		f.Fd() // as systemd's store is given it; must not make the socket block
		kept <- f
		if err := c.Admit(a); err != nil {
			t.Error(err)
		}
		if _, err := c.WaitEnd(ctx); !errors.Is(err, errRestart) {
			t.Errorf("noded's end looks like %v to the session", err)
		}
	})
	c := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...)
	c.answer()
	f := <-kept
	stop()
	next, err := Adopt(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if next.PID() != c.cmd.Process.Pid {
		t.Errorf("the adopted connection is of process %d, not %d", next.PID(), c.cmd.Process.Pid)
	}
	if next.Refuse("late") == nil {
		t.Error("an adopted connection takes a verdict")
	}
	c.end(9)
	if e, err := next.WaitEnd(context.Background()); err != nil || e.Died || e.Status != 9 {
		t.Errorf("the end arrived as %+v, %v", e, err)
	}
	if err := next.Fenced("release: a volume stayed busy"); err != nil {
		t.Error(err)
	}
	if said := c.answer(); said != "verdict fenced\nmessage release: a volume stayed busy\n" {
		t.Errorf("the end was answered by\n%s", said)
	}
}

func TestAnEndThatWasHeardAndNotAnsweredIsHeardAgainByTheNextNoded(t *testing.T) {
	a, kept, heard := admission(t), make(chan *os.File, 1), make(chan End, 1)
	socket, stop := serve(t, func(ctx context.Context, c *Conn) {
		f, err := c.File()
		if err != nil {
			t.Error(err)
		}
		kept <- f
		if err := c.Admit(a); err != nil {
			t.Error(err)
		}
		e, err := c.WaitEnd(ctx)
		if err != nil {
			t.Error(err)
		}
		heard <- e // and this noded ends before it has undone anything
	})
	c := startClient(t, socket, append([]string{"--script", script(t)}, batch...)...)
	c.answer()
	c.end(9)
	if e := <-heard; e.Died || e.Status != 9 {
		t.Errorf("the end arrived as %+v", e)
	}
	stop()
	f := <-kept
	next, err := Adopt(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errors.New("it did not come again"))
	defer cancel()
	if e, err := next.WaitEnd(ctx); err != nil || e.Died || e.Status != 9 {
		t.Errorf("to the next noded the end arrived as %+v, %v", e, err)
	}
	if err := next.Released("all closed"); err != nil {
		t.Error(err)
	}
	if said := c.answer(); said != "verdict released\nmessage all closed\n" {
		t.Errorf("the end was answered by\n%s", said)
	}
}

// ended is a connection that was admitted, its other end, and whatever that
// sends as its end.
func ended(t *testing.T, message []byte, fds ...int) (c *Conn, peer int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(pair[0]), "lifeline")
	c, err = Adopt(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		unix.Close(pair[1])
	})
	if err := unix.Sendmsg(pair[1], message, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	return c, pair[1]
}

func TestAnAnswerReachesASlurmstepdThatReadsItLate(t *testing.T) {
	c, peer := ended(t, datagram("ask=end", "status=0"))
	if e, err := c.WaitEnd(t.Context()); err != nil || e.Died {
		t.Errorf("the end arrived as %+v, %v", e, err)
	}
	if err := c.Released("all closed"); err != nil {
		t.Error(err)
	}
	c.Close()
	buf := make([]byte, 200)
	n, err := unix.Read(peer, buf)
	if err != nil || string(buf[:n]) != string(datagram("verdict=released", "message=all closed")) {
		t.Errorf("it read %q, %v", buf[:max(n, 0)], err)
	}
}

func TestAnEndWithDescriptorsLeavesNone(t *testing.T) {
	good := open(t, script(t))
	before := countDescriptors(t)
	c, _ := ended(t, datagram("ask=end", "status=0"), int(good.Fd()), int(good.Fd()))
	for range 3 {
		if e, err := c.WaitEnd(t.Context()); err != nil || !e.Died {
			t.Errorf("the end arrived as %+v, %v", e, err)
		}
	}
	if n := countDescriptors(t) - before; n != 2 {
		t.Errorf("%d more descriptors are open, not the two ends of the connection", n)
	}
}

func TestWhatIsNoLifelineIsNotAdopted(t *testing.T) {
	if _, err := Adopt(open(t, "/dev/null")); err == nil {
		t.Error("a device was adopted")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "stream")
	defer f.Close()
	if _, err := Adopt(f); err == nil {
		t.Error("a stream socket was adopted")
	}
}
