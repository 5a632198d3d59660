package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cloister/tests/cluster"
)

// Home is a user's directory on the shared file system.
func Home(who string) string { return "/shared/home/" + who }

// Upload copies files from a researcher's laptop to her directory on the
// shared file system.
func (s *Site) Upload(ctx context.Context, who string, names ...string) error {
	for _, name := range names {
		to := Home(who) + "/" + filepath.Base(name)
		if err := s.Put(ctx, cluster.Head, filepath.Join(s.LaptopDir(who), name), to, 0o600); err != nil {
			return err
		}
		if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("chown %s: %s", who, to)); err != nil {
			return err
		}
	}
	return nil
}

// Download copies a file from the shared file system to the laptop.
func (s *Site) Download(ctx context.Context, who, name string) error {
	return s.Get(ctx, cluster.Head, Home(who)+"/"+name, filepath.Join(s.LaptopDir(who), name))
}

// Write makes a file on a researcher's laptop.
func (s *Site) Write(who, name, text string) error {
	return os.WriteFile(filepath.Join(s.LaptopDir(who), name), []byte(text), 0o700)
}

var submitted = regexp.MustCompile(`Submitted batch job (\d+)`)

// Submit runs sbatch as the user on the login node and returns the job's
// number.
func (s *Site) Submit(ctx context.Context, who, args string) (uint32, error) {
	out, err := s.OutputAs(ctx, who, cluster.Login, "cd "+Home(who)+" && timeout 60 sbatch "+args)
	if err != nil {
		return 0, err
	}
	return JobNumber(out)
}

// JobNumber finds a job's number in what sbatch printed.
func JobNumber(out string) (uint32, error) {
	m := submitted.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("sbatch printed %q", out)
	}
	n, err := strconv.ParseUint(m[1], 10, 32)
	return uint32(n), err
}

// An Ended is how Slurm saw a job end.
type Ended struct {
	State    string // COMPLETED, FAILED, …
	ExitCode string // "1:0"
	Node     string
	// Output is what is in slurm-%j.out.
	Output string
}

var jobField = regexp.MustCompile(`(?m)\b(JobState|ExitCode|NodeList)=(\S*)`)

// Wait waits for the job's end, at most limit, and reads its output file.
func (s *Site) Wait(ctx context.Context, who string, job uint32, limit time.Duration) (Ended, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		e, err := s.Look(ctx, job)
		if err != nil {
			return e, err
		}
		switch e.State {
		case "PENDING", "RUNNING", "COMPLETING", "CONFIGURING":
		default:
			e.Output, err = s.Output(ctx, cluster.Head, fmt.Sprintf("cat %s/slurm-%d.out", Home(who), job))
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, fmt.Errorf("job %d is still %s: %w", job, e.State, ctx.Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// Look asks Slurm how a job is.
func (s *Site) Look(ctx context.Context, job uint32) (Ended, error) {
	out, err := s.Output(ctx, cluster.Head, fmt.Sprintf("timeout 30 scontrol show job %d", job))
	if err != nil {
		return Ended{}, err
	}
	var e Ended
	for _, m := range jobField.FindAllStringSubmatch(out, -1) {
		switch m[1] {
		case "JobState":
			e.State = m[2]
		case "ExitCode":
			e.ExitCode = m[2]
		case "NodeList":
			e.Node = m[2]
		}
	}
	return e, nil
}

// NodeState asks Slurm how a node is: "idle", "drained", ….
func (s *Site) NodeState(ctx context.Context, node string) (string, error) {
	out, err := s.Output(ctx, cluster.Head, "timeout 30 sinfo -h -N -o %T -n "+node)
	state, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	return state, err
}

// MakeVolume makes a volume of some files on a researcher's laptop and uploads
// it.
func (s *Site) MakeVolume(ctx context.Context, who, name string, files map[string]string) error {
	from := name + ".d"
	dir := filepath.Join(s.LaptopDir(who), from)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for f, text := range files {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := s.Laptop(ctx, who, "volume", "create", name, "--from", from); err != nil {
		return err
	}
	return s.Upload(ctx, who, name)
}

// Seal seals a script on a researcher's laptop and uploads the sealed job,
// name.sealed.
func (s *Site) Seal(ctx context.Context, who, name, script string, options ...string) error {
	if err := s.Write(who, name+".sh", script); err != nil {
		return err
	}
	if _, err := s.Laptop(ctx, who, append([]string{"seal", name + ".sh", "-o", name + ".sealed"}, options...)...); err != nil {
		return err
	}
	return s.Upload(ctx, who, name+".sealed")
}

// Results downloads a results volume and returns one file of it.
func (s *Site) Results(ctx context.Context, who, volume, file string) (string, error) {
	if err := s.Download(ctx, who, volume); err != nil {
		return "", err
	}
	to := volume + ".out"
	if err := os.RemoveAll(filepath.Join(s.LaptopDir(who), to)); err != nil {
		return "", err
	}
	if _, err := s.Laptop(ctx, who, "volume", "extract", volume, "--to", to); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(s.LaptopDir(who), to, file))
	return string(b), err
}

// Traces lists what a session left on a node that is not locked: nothing, on
// a clean one.
func (s *Site) Traces(ctx context.Context, node string) (string, error) {
	return s.Output(ctx, node, ListTraces)
}

// ListTraces is what Traces runs.
const ListTraces = `
dmsetup ls 2>&1 | grep -v '^No devices found'
losetup -l -n
cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -E 'cloister-(image|view)| /dev/dm-' | sort -u
ls -A /run/cloister/sessions /run/cloister | grep -E '^[0-9a-f]{32}|session-'
pgrep -l -u alice,bob,carol
if grep -q 'class = "on-demand"' /etc/cloister/policy.toml; then
	nft list tables | grep cloister
	# It was told to start; nobody waits for that.
	for i in $(seq 40); do [ "$(systemctl is-active ssh.service)" = activating ] && sleep 0.5 || break; done
	[ "$(systemctl is-active ssh.service)" = active ] || echo "ssh.service is not active"
fi
true`

// Stubborn are lines of a script that leave processes which do not want to end:
// one that ignores signals, a daemon, one forked twice, one in namespaces of its
// own.
const Stubborn = `setsid -f sh -c 'trap "" TERM INT HUP; while :; do sleep 1000; done' </dev/null >/dev/null 2>&1
(setsid sh -c '(sleep 1000 &)' &)
unshare -Urpf --mount-proc sleep 1000 >/dev/null 2>&1 &
`

// Started waits until a secure job's script runs a program on a node.
func (s *Site) Started(ctx context.Context, who string, job uint32, node string) error {
	for {
		r, err := s.Run(ctx, node, "pgrep -u "+who+" -x sleep")
		if err != nil {
			return err
		}
		if r.Exit == 0 {
			return nil
		}
		e, err := s.Look(ctx, job)
		if err != nil {
			return err
		}
		switch e.State {
		case "PENDING", "RUNNING", "CONFIGURING":
		default:
			e, err = s.Wait(ctx, who, job, time.Minute)
			return fmt.Errorf("job %d ended before its script ran: %s: %s (%v)", job, e.State, e.Output, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// CopyToLaptop puts a file of the test host in a researcher's directory.
func (s *Site) CopyToLaptop(who, file, name string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.LaptopDir(who), name), b, 0o600)
}
