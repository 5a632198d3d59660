package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// launchedTwice is why slurmctld drains a node to which it has sent a job again
// that was still ending there: it was killed before it had stored that it runs.
const launchedTwice = "Duplicate jobid"

// settle waits until the node is clean and in service. A fenced one is told to
// recover, as its status says; a user alone, when nothing befell the cluster
// since the job began, must not be able to fence it.
func (l *lane) settle(ctx context.Context, p Plan, began time.Time) (fenced bool) {
	for deadline := time.Now().Add(2 * patience); ctx.Err() == nil; pause(ctx, time.Second) {
		over, fence, said := l.state(ctx)
		if fence != nil && !fenced {
			fenced = true
			l.fences = append(l.fences, fmt.Sprintf("%s: %s (%s)", p.Blow, fence.Reason, fence.Detail))
			l.say("fenced: %s (%s)", fence.Reason, fence.Detail)
			if p.Blow.usersOwn() && !l.shaken(began) {
				l.fault("job %d and %s fenced the node: %s (%s)", p.Number, p.Blow, fence.Reason, fence.Detail)
			}
		}
		if fence != nil && strings.Contains(said, "drain") {
			if r, err := l.Run(ctx, l.node, "cloister node recover"); err == nil {
				l.say("cloister node recover: exit status %d: %s", r.Exit, strings.TrimSpace(r.Stdout+r.Stderr))
			}
		}
		if strings.Contains(said, launchedTwice) && l.shaken(began) {
			l.fences = append(l.fences, fmt.Sprintf("%s: Slurm drained the node by itself (%s)", p.Blow, launchedTwice))
			l.say("Slurm drained the node by itself: %s", said)
			l.Run(ctx, cluster.Head, "scontrol update nodename="+l.node+" state=resume")
		}
		if over {
			return fenced
		}
		if time.Now().After(deadline) {
			l.fault("after %s the node is neither clean nor recovered: %s", p.Blow, said)
			return fenced
		}
	}
	return fenced
}

// state looks whether the node is clean and idle, and says what is missing.
func (l *lane) state(ctx context.Context) (over bool, fence *status.Fence, said string) {
	st, _, err := l.Status(ctx, l.node)
	if err != nil {
		return false, nil, err.Error()
	}
	slurm, err := l.Output(ctx, cluster.Head, "timeout 30 sinfo -h -N -o '%T %E' -n "+l.node)
	if err != nil {
		return false, nil, err.Error()
	}
	slurm, _, _ = strings.Cut(strings.TrimSpace(slurm), "\n")
	said = fmt.Sprintf("%s, session %+v, faults %q, in Slurm: %s", st.State, st.Session, st.Faults, slurm)
	if st.State != status.InService || st.Session != nil || !strings.HasPrefix(slurm, "idle") {
		return false, st.Fence, said
	}
	left, err := l.Traces(ctx, l.node)
	if err != nil {
		return false, nil, err.Error()
	}
	return left == "", nil, said + ", left: " + left
}

// results reads the job's volume at home: every record that was on disk is there.
func (l *lane) results(ctx context.Context, p Plan, least int, fenced bool) {
	volume := l.volume(p)
	there, err := l.Run(ctx, cluster.Head, "test -e "+deploy.Home(l.who)+"/"+volume)
	if err != nil {
		l.fault("looking for %s: %v", volume, err)
		return
	}
	if there.Exit != 0 {
		if least > 0 || p.Kept && len(l.kept) > 0 {
			l.fault("%s is gone, with %d records of job %d that were on disk", volume, least, p.Number)
		}
		return
	}
	want := map[string]record{p.file(): {least, p.Records}}
	if p.Kept {
		l.made = true
		l.kept[p.file()] = want[p.file()]
		want = l.kept
	}
	dir, err := l.extract(ctx, p, volume, fenced)
	if err != nil {
		l.fault("reading %s after %s: %v", volume, p.Blow, err)
		return
	}
	for file, known := range want {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil && !(known.least == 0 && errors.Is(err, os.ErrNotExist)) {
			l.fault("%s in %s after %s: %v", file, volume, p.Blow, err)
			continue
		}
		if err := intact(string(text), known.least, known.most); err != nil {
			l.fault("%s in %s after %s: %v", file, volume, p.Blow, err)
			continue
		}
		// What was read once stays.
		if n := strings.Count(string(text), "\n"); p.Kept && file == p.file() && p.Blow != PowerCut {
			l.kept[file] = record{n, n}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		l.fault("%v", err)
	}
	if !p.Kept { // the guests' disks are small
		os.Remove(filepath.Join(l.LaptopDir(l.who), volume))
		l.Run(ctx, cluster.Head, "rm -f "+deploy.Home(l.who)+"/"+volume)
	}
}

// extract reads a volume at home. One that nobody closed is read when the owner
// says so. Only a power cut or a fence may leave one, until a later job closes it.
func (l *lane) extract(ctx context.Context, p Plan, volume string, fenced bool) (string, error) {
	var err error
	for try := 0; ; try++ { // the way into a busy guest is now and then given up
		if err = l.Download(ctx, l.who, volume); err == nil {
			break
		}
		if try == 3 {
			return "", err
		}
	}
	to := volume + ".out"
	_, err = l.Laptop(ctx, l.who, "volume", "extract", volume, "--to", to)
	open := err != nil && strings.Contains(err.Error(), "--any-state")
	if open && (p.Blow == PowerCut || fenced || p.Kept && l.open) {
		_, err = l.Laptop(ctx, l.who, "volume", "extract", volume, "--to", to, "--any-state")
	}
	if p.Kept {
		l.open = open
	}
	return filepath.Join(l.LaptopDir(l.who), to), err
}
