package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloister/kms/server"
	"cloister/secret"
	"cloister/tests/typist"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cloister": main})
}

// TestSessions runs the scripts of testdata/script: each reads like a session
// of a researcher, with an embedded KMS and a site file of their own.
//
// Besides testscript's commands there are
//
//	exits N PROGRAM ARGS…   runs a program that must exit with status N
//	node JOB USER           opens a sealed job as a node would
//	flip FILE OFFSET        changes one byte
//	interrupt PATTERN …     sends Ctrl-C, or -HUP, -TERM, once a file matches
//	small SIZE DIR …        runs a program with a file system of that size on
//	                        DIR and prints what is left there
//	readonly DIR …          runs a program that cannot write to DIR
//	forbidden …             runs a program for which file permissions count
//	sweep CHECK …           interrupts a program at moments of its whole course
//	busy FILE [NODE JOB]    locks a volume as a job that writes to it does;
//	free FILE               ends that
//	types N 'A|B' PROGRAM …  runs a program in a terminal where somebody types
//	                        the lines A and B, and wants exit status N
//	agent NAME…             serves an SSH agent that holds new Ed25519 keys
//	mute                    lets the script's agents list their keys, but not sign
//	sif FILE [KEYS]         makes an image, signed with a new key if KEYS is given
//	tokens N                wants N unused tokens in the KMS
//	made V.luks COUNTER JOB makes a volume as a node leaves it
//	password NAME FILE      gives a user of the KMS the password in FILE
func TestSessions(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "node": node, "flip": flip, "agent": serveAgent, "mute": muteAgents, "sif": makeSIF, "small": small, "interrupt": interrupt, "tokens": tokens, "password": password,
			"types": typist.Types, "readonly": readonly, "forbidden": forbidden, "sweep": sweep, "busy": busy, "free": free, "made": made,
		},
	})
}

// setup gives a script a KMS, a node's identity, site files and a user's token.
func setup(env *testscript.Env) error {
	state := filepath.Join(env.WorkDir, ".kms")
	ca, err := server.Init(state, []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	token, err := server.AddUser(state, "alice")
	if err != nil {
		return err
	}
	core, audit := observer.New(zap.InfoLevel)
	env.Values[auditKey{}], env.Values[muteKey{}] = audit, new(atomic.Bool)
	s, err := server.Open(server.Config{Dir: state, Log: zap.New(core)})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l, func() {}) }()
	env.Defer(func() {
		stop()
		<-served
		s.Close()
	})
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return err
	}
	home := filepath.Join(env.WorkDir, ".home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	site := func(cluster, address string) string {
		return fmt.Sprintf("format = 1\ncluster = %q\n[kms]\naddress = %q\nca = \"\"\"\n%s\"\"\"\n[class.dedicated]\nrecipients = [%q]\n",
			cluster, address, ca, id.Recipient())
	}
	for name, content := range map[string]string{
		filepath.Join(env.WorkDir, "site.toml"):        site("demo", "https://"+l.Addr().String()),
		filepath.Join(env.WorkDir, "unreachable.toml"): site("far", "https://127.0.0.1:1"),
		filepath.Join(env.WorkDir, ".identity"):        id.String(),
		filepath.Join(home, "kms-token"):               string(token.Reveal()) + "\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			return err
		}
	}
	env.Setenv("CLOISTER_HOME", home)
	env.Setenv("KMS", "https://"+l.Addr().String())
	env.Setenv("SSH_AUTH_SOCK", "")
	return nil
}

// auditKey is where a script's environment has the audit log of its KMS.
type auditKey struct{}

// tokens counts the unused tokens by the audit log: those made, less those that
// were redeemed or revoked.
func tokens(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tokens N")
	}
	unused := 0
	for _, e := range ts.Value(auditKey{}).(*observer.ObservedLogs).FilterMessage("audit").All() {
		f := e.ContextMap()
		if f["result"] != "ok" {
			continue
		}
		switch f["op"] {
		case "wrap":
			unused++
		case "unwrap", "revoke":
			unused--
		}
	}
	if strconv.Itoa(unused) != args[0] {
		ts.Fatalf("the KMS has %d unused tokens, want %s", unused, args[0])
	}
}

func password(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: password NAME FILE")
	}
	p := strings.TrimSuffix(ts.ReadFile(args[1]), "\n")
	ts.Check(server.State{Dir: ts.MkAbs(".kms")}.SetPassword(args[0], secret.New([]byte(p))))
}

// exits runs a program and wants its exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], int64(at))
	ts.Check(err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], int64(at))
	ts.Check(err)
}

// interrupt starts a program, waits until a file that matches PATTERN exists,
// sends Ctrl-C and wants the exit status that goes with it.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"-HUP": syscall.SIGHUP, "-TERM": syscall.SIGTERM}
	sent := os.Interrupt
	if len(args) > 0 && signals[args[0]] != nil {
		sent, args = signals[args[0]], args[1:]
	}
	if neg || len(args) < 2 {
		ts.Fatalf("usage: interrupt [-HUP|-TERM] PATTERN PROGRAM ARGS…")
	}
	// The test itself may run under nohup.
	cmd := exec.Command("env", append([]string{"--default-signal=HUP"}, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "CLOISTER_HOME="+ts.Getenv("CLOISTER_HOME"))
	ts.Check(cmd.Start())
	deadline := time.Now().Add(20 * time.Second)
	for {
		found, err := filepath.Glob(ts.MkAbs(args[0]))
		ts.Check(err)
		if len(found) > 0 {
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			ts.Fatalf("no file matched %s", args[0])
		}
		time.Sleep(time.Millisecond)
	}
	ts.Check(cmd.Process.Signal(sent))
	err := cmd.Wait()
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok || e.ExitCode() != 130 {
		ts.Fatalf("got %v, want exit status 130", err)
	}
}

// readonly runs a program in a mount namespace where DIR is read-only, and
// wants exit status 1.
func readonly(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: readonly DIR PROGRAM ARGS…")
	}
	const script = `mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99; shift; exec "$@"`
	unshared(ts, script, args)
}

// small runs a program in a mount namespace of its own where DIR is a tmpfs of
// SIZE, wants exit status 1, and prints the names that are left in DIR.
func small(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: small SIZE DIR PROGRAM ARGS…")
	}
	const script = `dir=$2; mount -t tmpfs -o size=$1 none "$dir" || exit 99; shift 2; "$@"; s=$?; ls -A "$dir"; exit $s`
	unshared(ts, script, args)
}

// unshared runs a shell script as root of its own mount namespace.
func unshared(ts *testscript.TestScript, script string, args []string) {
	err := ts.Exec("unshare", append([]string{"--map-root-user", "--mount", "sh", "-c", script, "sh"}, args...)...)
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 1 {
		ts.Fatalf("got %v, want exit status 1 (this test needs unshare of util-linux and user namespaces, or root)", err)
	}
}
