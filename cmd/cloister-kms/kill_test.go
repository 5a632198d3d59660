package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cloister/kms"
	"cloister/kms/server"
	"cloister/secret"
)

// process is a real cloister-kms serve.
type process struct {
	cmd     *exec.Cmd
	address string
	client  *kms.Client
	stderr  *bufio.Reader
}

func start(t *testing.T, dir string, ca []byte, env ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "serve", "--state", dir, "--listen", "127.0.0.1:0")
	cmd.Env = append(append(os.Environ(), runAsMain+"=1"), env...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p := &process{cmd: cmd, stderr: bufio.NewReader(out)}
	line, err := p.stderr.ReadString('\n')
	var hello struct{ Msg, Address string }
	if err != nil || json.Unmarshal([]byte(line), &hello) != nil || hello.Msg != "serving" {
		t.Fatalf("the server said %q, %v", line, err)
	}
	go p.stderr.WriteTo(discard{}) // the audit lines must not block it
	p.address = "https://" + hello.Address
	p.client, err = kms.New(kms.Config{Address: p.address, CAPEM: ca})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
}

func stateIn(t *testing.T, dir string) server.State {
	t.Helper()
	s, err := (&place{dir: dir}).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newState(t *testing.T) (dir string, ca []byte, user secret.Bytes) {
	t.Helper()
	p := place{dir: filepath.Join(t.TempDir(), "kms")}
	if err := p.create(t.Context(), []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	s := stateIn(t, p.dir)
	st, err := s.ReadStatus()
	if err != nil {
		t.Fatal(err)
	}
	if user, err = s.AddUser("alice", server.DefaultRole); err != nil {
		t.Fatal(err)
	}
	return p.dir, st.CAPEM, user
}

func TestAfterKillNineNoAnsweredTokenWorksAgainAndNoneIsLost(t *testing.T) {
	const (
		rounds = 6
		tokens = 24
	)
	dir, ca, user := newState(t)
	answered, unasked := 0, 0
	for round := range rounds {
		p := start(t, dir, ca)
		var keys, toks [tokens]secret.Bytes
		for i := range toks {
			var err error
			if keys[i], err = secret.Random(rand.Reader, kms.JobKeySize); err != nil {
				t.Fatal(err)
			}
			tok, err := p.client.Wrap(t.Context(), user, keys[i], time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			toks[i] = tok.Token
		}
		// Four workers redeem; the kill falls somewhere among them.
		var (
			wg   sync.WaitGroup
			next = make(chan int, tokens)
			errs [tokens]error
			done = make(chan struct{}, tokens)
		)
		asked := [tokens]bool{}
		for i := range toks {
			next <- i
		}
		close(next)
		ctx, stop := context.WithCancel(t.Context())
		for range 4 {
			wg.Go(func() {
				for i := range next {
					if ctx.Err() != nil {
						return
					}
					asked[i] = true
					got, err := p.client.Redeem(ctx, toks[i])
					if err == nil && !got.Equal(keys[i]) {
						err = errors.New("another key came back")
						t.Errorf("token %d: %v", i, err)
					}
					errs[i] = err
					done <- struct{}{}
				}
			})
		}
		for range 3 + round*3 {
			<-done
		}
		p.kill(t)
		stop()
		wg.Wait()

		p = start(t, dir, ca)
		for i := range toks {
			got, err := p.client.Redeem(t.Context(), toks[i])
			switch {
			case asked[i] && errs[i] == nil:
				answered++
				if !errors.Is(err, kms.ErrUsed) {
					t.Errorf("round %d: token %d was answered before the kill and now gives %v", round, i, err)
				}
			case !asked[i] || !kms.MaybeSpent(errs[i]):
				unasked++
				if err != nil || !got.Equal(keys[i]) {
					t.Errorf("round %d: token %d was never unwrapped and is lost: %v", round, i, err)
				}
			case err != nil && !errors.Is(err, kms.ErrUsed):
				t.Errorf("round %d: token %d, interrupted: %v", round, i, err)
			}
		}
		p.kill(t)
	}
	if answered == 0 || unasked == 0 {
		t.Errorf("%d answered and %d untouched tokens: the kills never fell among the redemptions", answered, unasked)
	}
}

func TestServeTellsSystemdWhenItIsReadyAndStopsCleanlyOnSIGTERM(t *testing.T) {
	dir, ca, user := newState(t)
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, dir, ca, "NOTIFY_SOCKET="+socket)
	b := make([]byte, 100)
	l.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Fatalf("notified %q, %v", b[:n], err)
	}
	if _, err := p.client.WhoHolds(t.Context(), user); err != nil {
		t.Errorf("ready, but: %v", err)
	}
	if out, err := status(dir, p.address); err != nil || !strings.Contains(out, "answers at") {
		t.Errorf("status while it runs: %v\n%s", err, out)
	}
	if _, err := stateIn(t, dir).AddUser("bob", server.DefaultRole); err != nil {
		t.Errorf("adding a user while it runs: %v", err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if _, err := stateIn(t, dir).Outstanding(); err != nil {
		t.Errorf("the database after it: %v", err)
	}
}

func status(dir, address string) (string, error) {
	cmd := exec.Command(os.Args[0], "status", "--state", dir, "--port", address[strings.LastIndex(address, ":")+1:])
	cmd.Env = append(os.Environ(), runAsMain+"=1")
	b, err := cmd.CombinedOutput()
	return string(b), err
}
