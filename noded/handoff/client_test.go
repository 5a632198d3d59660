package handoff

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
)

// buildClient compiles the plugin's own client (cgo/plugin) once.
var buildClient = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "handoff-client")
	if err != nil {
		return "", err
	}
	src, out := filepath.Join("..", "..", "cgo", "plugin"), filepath.Join(dir, "client")
	cmd := exec.Command("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O1",
		"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I", src, "-o", out,
		filepath.Join(src, "test", "handoff-client.c"), filepath.Join(src, "client.c"), filepath.Join(src, "message.c"))
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling the plugin's client: %w: %s", err, text)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := buildClient(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// batch is what the plugin says of a plain batch step.
var batch = []string{"ask=launch", "job=7", "step=4294967291", "uid=2001", "gid=2001", "sgid=2001", "sgid=44",
	"nnodes=1", "nodeid=0", "ntasks=1", "restart=0", "arrayjob=0", "arraytask=4294967294", "secure=1",
	"arg=/var/spool/slurmd/job00007/slurm_script", "arg=a b", "cwd=/home/alice/"}

// A client is a running handoff-client.
type client struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startClient(t *testing.T, socket string, args ...string) *client {
	t.Helper()
	path, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, cmd: exec.Command(path, append([]string{socket}, args...)...)}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

// answer reads the facts of one answer, or the client's reason for none.
func (c *client) answer() string {
	c.t.Helper()
	var b strings.Builder
	for {
		text, err := c.out.ReadString('\n')
		if err != nil {
			return b.String() + text
		}
		if text == "done\n" {
			return b.String()
		}
		b.WriteString(text)
	}
}

// end says that the step ended with this wait status.
func (c *client) end(status int) {
	fmt.Fprintf(c.in, "%d\n", status)
}

func script(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slurm_script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve starts a server with this handler and returns its socket and what
// stops it and waits for its end.
func serve(t *testing.T, handler func(context.Context, *Conn)) (string, func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the hand-off is between two processes of root: run this test as root")
	}
	path := filepath.Join(t.TempDir(), "noded.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(l, zaptest.NewLogger(t)).Serve(ctx, handler) }()
	stop := sync.OnceFunc(func() {
		cancel(errRestart)
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serving: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(stop)
	return path, stop
}

var errRestart = fmt.Errorf("noded restarts")
