package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// DefaultTimeout ends a command that has no Timeout of its own: an emulated guest on a busy host is slow,
// but not that slow.
const DefaultTimeout = 5 * time.Minute

// A Result is what a command in a guest left. Exit is 128+n after signal n, as a shell has it.
type Result struct {
	Stdout, Stderr string
	Exit           int
}

// A RunOption changes one call of Run or RunAs.
type RunOption func(*runSettings)

type runSettings struct {
	stdin   []byte
	timeout time.Duration
}

// Stdin feeds data to the command. It goes through the agent: for megabytes use Put.
func Stdin(data []byte) RunOption { return func(s *runSettings) { s.stdin = data } }

// Timeout replaces DefaultTimeout.
func Timeout(d time.Duration) RunOption { return func(s *runSettings) { s.timeout = d } }

// Run runs a /bin/sh script as root on a node. It needs no network in the guest. A script that ran is no
// error, whatever its exit status. The call lasts until the script's output is closed: what it leaves
// in the background must be redirected. Output over 16 MiB (qemu-ga's limit) is an error.
// Any number of calls may run at once, on one node too.
func (c *Cluster) Run(ctx context.Context, node, script string, opts ...RunOption) (Result, error) {
	return c.exec(ctx, node, []string{"/bin/sh", "-c", script}, opts)
}

var userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]*$`)

// RunAs runs a /bin/sh script as a user, in the user's home directory, with only HOME, SHELL, USER,
// LOGNAME and PATH in the environment. There is no login session.
func (c *Cluster) RunAs(ctx context.Context, user, node, script string, opts ...RunOption) (Result, error) {
	if !userName.MatchString(user) {
		return Result{}, fmt.Errorf("run on %s: bad user name %q", node, user)
	}
	return c.exec(ctx, node, []string{"/usr/bin/setpriv", "--reuid=" + user, "--regid=" + user, "--init-groups",
		"--reset-env", "/bin/sh", "-c", "cd \"$HOME\" || exit 125\n" + script}, opts)
}

// Output is Run for scripts that must succeed: it returns standard output, and a non-zero exit status is an
// error that holds standard error.
func (c *Cluster) Output(ctx context.Context, node, script string, opts ...RunOption) (string, error) {
	return succeed(node, script)(c.Run(ctx, node, script, opts...))
}

// OutputAs is RunAs for scripts that must succeed.
func (c *Cluster) OutputAs(ctx context.Context, user, node, script string, opts ...RunOption) (string, error) {
	return succeed(node, script)(c.RunAs(ctx, user, node, script, opts...))
}

func succeed(node, script string) func(Result, error) (string, error) {
	return func(r Result, err error) (string, error) {
		if err == nil && r.Exit != 0 {
			err = fmt.Errorf("on %s: %q: exit status %d: %s", node, script, r.Exit, strings.TrimSpace(r.Stderr+"\n"+tail(r.Stdout, 10)))
		}
		return r.Stdout, err
	}
}

func (c *Cluster) exec(ctx context.Context, name string, argv []string, opts []RunOption) (Result, error) {
	g, err := c.guest(name)
	if err != nil {
		return Result{}, err
	}
	s := runSettings{timeout: DefaultTimeout}
	for _, o := range opts {
		o(&s)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := g.agent.exec(ctx, argv, s.stdin)
	if err != nil {
		err = fmt.Errorf("run on %s: %w", name, err)
	}
	return r, err
}

type execStatus struct {
	Exited       bool   `json:"exited"`
	Exitcode     int    `json:"exitcode"`
	Signal       int    `json:"signal"`
	OutData      []byte `json:"out-data"` // base64 in JSON, as []byte is for encoding/json
	ErrData      []byte `json:"err-data"`
	OutTruncated bool   `json:"out-truncated"`
	ErrTruncated bool   `json:"err-truncated"`
}

func (a *agent) exec(ctx context.Context, argv []string, stdin []byte) (Result, error) {
	args := map[string]any{
		"path": argv[0], "arg": argv[1:], "capture-output": true,
		"env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"},
	}
	if stdin != nil {
		args["input-data"] = stdin
	}
	var started struct {
		PID int `json:"pid"`
	}
	if err := a.call("guest-exec", args, &started); err != nil {
		return Result{}, err
	}
	// Asking costs the guest time that the command could have: short naps at first, longer ones later, a
	// twentieth of what the command took so far.
	began := time.Now()
	for nap := 10 * time.Millisecond; ; nap = min(nap*5/4, max(150*time.Millisecond, time.Since(began)/20)) {
		if err := sleep(ctx, nap); err != nil {
			a.kill(started.PID)
			return Result{}, fmt.Errorf("killed: %w", err)
		}
		var s execStatus
		if err := a.call("guest-exec-status", map[string]any{"pid": started.PID}, &s); err != nil {
			return Result{}, err
		}
		if !s.Exited {
			continue
		}
		r := Result{string(s.OutData), string(s.ErrData), s.Exitcode}
		if s.Signal != 0 {
			r.Exit = 128 + s.Signal
		}
		if s.OutTruncated || s.ErrTruncated {
			return r, errors.New("output truncated by the guest agent")
		}
		return r, nil
	}
}

// kill ends a command that took too long, and its children. qemu-ga starts commands in its own session and
// process group, so they are found by descent.
func (a *agent) kill(pid int) {
	a.call("guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", fmt.Sprintf(
		"end() { c=$(cat /proc/$1/task/*/children 2>/dev/null); kill -9 $1; for p in $c; do (end $p); done; }; end %d", pid)}}, nil)
}
