package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A slurm is Debian's own Slurm on this machine: one controller, and
// several slurmd, so that a step need not wait until the one before has been
// cleared away on its node (Slurm takes a quarter of a second for that).
type slurm struct {
	dir    string // everything of it, in memory
	plugin string // cloister.so, built for its release
	spool  *spool
}

// slurmds is how many slurmd there are; with 12 none was waited for.
const slurmds = 16

// slurmHeaders is where Debian's libslurm-dev, of the installed release, puts slurm/spank.h.
const slurmHeaders = "/usr/include"

// clientTimeout ends a client command that Slurm does not answer: left alone
// they try again for minutes.
const clientTimeout = 30 * time.Second

// slurmConf follows Slurm's defaults but for what cannot be had here (cgroups,
// accounting). Partition later takes jobs and starts none.
const slurmConf = `ClusterName=bench
SlurmctldHost=%[1]s(%[2]s)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=%[3]s/munge.sock
StateSaveLocation=%[3]s/state
SlurmdSpoolDir=%[3]s/spool/%%n
SlurmctldPidFile=%[3]s/slurmctld.pid
SlurmdPidFile=%[3]s/slurmd-%%n.pid
SlurmctldLogFile=%[3]s/slurmctld.log
SlurmdLogFile=%[3]s/slurmd-%%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MaxJobCount=100000
NodeName=n[1-%[5]d] NodeHostname=%[1]s NodeAddr=%[2]s Port=[7001-%[6]d] CPUs=%[4]d State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=later Nodes=ALL MaxTime=INFINITE State=DOWN
`

func (s *slurm) path(name string) string { return filepath.Join(s.dir, name) }

// startSlurm builds the plugin and starts munged, slurmctld and slurmd. They
// end with the namespace.
func startSlurm(ctx context.Context, n native) (*slurm, error) {
	s := &slurm{dir: filepath.Join(n.Dir, "slurm"), plugin: filepath.Join(n.Dir, "plugin", "cloister.so")}
	if out, err := exec.CommandContext(ctx, "make", "-s", "-C", filepath.Join(n.Top, "cgo/plugin"), "plugin",
		"OUT="+filepath.Dir(s.plugin), "SLURM_HEADERS="+slurmHeaders).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the plugin: %w: %s", err, out)
	}
	for _, name := range []string{"", "conf", "state", "spool"} {
		if err := os.Mkdir(s.path(name), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(s.path("conf/slurm.conf"), fmt.Appendf(nil, slurmConf, hostName, hostAddress, s.dir, runtime.NumCPU(), slurmds, 7000+slurmds), 0o644); err != nil {
		return nil, err
	}
	// Any key does for a cluster that lasts a few minutes in a namespace.
	if err := os.WriteFile(s.path("munge.key"), bytes.Repeat([]byte("bench key"), 16), 0o400); err != nil {
		return nil, err
	}
	var dirs []string
	for i := range slurmds {
		dirs = append(dirs, s.path(fmt.Sprintf("spool/n%d", i+1)))
		if err := os.Mkdir(dirs[i], 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if s.spool, err = watchSpool(dirs); err != nil {
		return nil, err
	}
	daemons := [][]string{
		{"munged", "--force", "--key-file=" + s.path("munge.key"), "--socket=" + s.path("munge.sock"), "--pid-file=" + s.path("munge.pid"),
			"--log-file=" + s.path("munged.log"), "--seed-file=" + s.path("munge.seed")},
		{"slurmctld"},
	}
	for i := range slurmds {
		daemons = append(daemons, []string{"slurmd", "-N", fmt.Sprintf("n%d", i+1)})
	}
	for _, args := range daemons {
		if err := s.root(ctx, args...); err != nil {
			return nil, err
		}
	}
	return s, s.idle(ctx)
}

// command has its output go to a file: a daemon that inherits a pipe would
// keep it open for ever.
func (s *slurm) command(ctx context.Context, args ...string) (*exec.Cmd, *os.File, error) {
	out, err := os.Create(s.path("out"))
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "SLURM_CONF="+s.path("conf/slurm.conf"))
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out, nil
}

func (s *slurm) failed(cmd *exec.Cmd, err error) error {
	said, _ := os.ReadFile(s.path("out")) // what cannot be read is not shown
	return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(said))
}

// root runs a command of the administrator's.
func (s *slurm) root(ctx context.Context, args ...string) error {
	ctx, stop := context.WithTimeout(ctx, clientTimeout)
	defer stop()
	cmd, out, err := s.command(ctx, args...)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := cmd.Run(); err != nil {
		return s.failed(cmd, err)
	}
	return nil
}

// user runs a command of an ordinary user's and returns the seconds that it took.
func (s *slurm) user(ctx context.Context, args ...string) (float64, error) {
	ctx, stop := context.WithTimeout(ctx, clientTimeout)
	defer stop()
	cmd, out, err := s.command(ctx, args...)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	began := time.Now()
	err = cmd.Run()
	took := time.Since(began).Seconds()
	if err != nil {
		return 0, s.failed(cmd, err)
	}
	return took, nil
}

// idle waits until every node takes jobs.
func (s *slurm) idle(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		state, err := s.nodeStates(ctx)
		if err == nil && state == "idle" {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for Slurm's nodes: %w", errors.Join(fmt.Errorf("the nodes are %q, not idle", state), err, s.lastLines()))
		}
	}
}

func (s *slurm) nodeStates(ctx context.Context) (string, error) {
	if err := s.root(ctx, "sinfo", "-h", "-o", "%t"); err != nil {
		return "", err
	}
	said, err := os.ReadFile(s.path("out"))
	return string(bytes.TrimSpace(said)), err
}

// lastLines is what the daemons said, for an error.
func (s *slurm) lastLines() error {
	out, err := exec.Command("tail", "-n", "5", s.path("slurmctld.log"), s.path("slurmd-n1.log")).CombinedOutput()
	return errors.Join(err, errors.New(string(out)))
}

// load puts the plugin into plugstack.conf, as docs/admin.md says for a login
// node and an ordinary node, or takes the file away. The client commands and
// every slurmstepd read it when they start, so both sides have the same
// daemons, nodes and files.
func (s *slurm) load(plugin bool) error {
	conf := s.path("conf/plugstack.conf")
	if !plugin {
		if err := os.Remove(conf); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return os.WriteFile(conf, []byte("required "+s.plugin+"\n"), 0o644)
}

// favour raises the priority of this process and of what it starts from now
// on, so that other work on the machine disturbs less. It returns the nice
// value.
func favour() int {
	const high = -15
	if unix.Setpriority(unix.PRIO_PROCESS, 0, high) != nil {
		return 0
	}
	return high
}
