// Package cgroup ends the processes of one Slurm job by its control group, so
// that those which daemonised or unshared their namespaces end too.
//
// It never signals a process by number: a number can be reused between the
// look and the kill, cgroup.kill cannot miss
// (Documentation/admin-guide/cgroup-v2.rst).
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cloister/mutant"
)

// Root is where the unified hierarchy is mounted.
var Root = "/sys/fs/cgroup"

// A Job is the control group of one Slurm job on this node: with cgroup v2,
// slurmd keeps SCOPE/job_ID/step_NAME/{slurm,user}, slurmstepd in the former
// and everything of the user in the latter.
type Job struct {
	// Scope is slurmstepd's scope relative to Root,
	// "/system.slice/slurmstepd.scope" unless the node is one of several.
	Scope string `json:"scope"`
	// ID is Slurm's job number.
	ID uint32 `json:"id"`
}

// OfStepd finds the job's control group from the process that handed the job
// over, slurmstepd. The job's own directory need not exist yet.
func OfStepd(pid int, job uint32) (Job, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return Job{}, fmt.Errorf("finding the control group of slurmstepd: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for dir := path; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if strings.HasSuffix(dir, "slurmstepd.scope") {
				return Job{Scope: dir, ID: job}, nil
			}
		}
		return Job{}, fmt.Errorf("process %d is in %s, not in slurmstepd's scope: this node needs Slurm's cgroup/v2 plugin", pid, path)
	}
	return Job{}, errors.New("no unified control group hierarchy: this node needs cgroup v2")
}

func (j Job) dir() string {
	return filepath.Join(Root, j.Scope, "job_"+strconv.FormatUint(uint64(j.ID), 10))
}

// Path is the job's control group relative to Root.
func (j Job) Path() string { return strings.TrimPrefix(j.dir(), Root) }

// The names that Slurm gives the step which runs the batch script, and the one
// which, with PrologFlags=Contain, holds a job's place with a sleep of root's
// (_spawn_job_container in slurmstepd's mgr.c of 24.11).
const (
	batch  = "step_batch"
	extern = "step_extern"
)

// Batch is the control group of the job's batch script relative to Root.
func (j Job) Batch() string { return filepath.Join(j.Path(), batch) }

// Steps names the steps that the job has here besides its batch script, by their
// slurmstepds or tasks. What ssh adopts into the extern step is a person's, and
// ended as such.
func (j Job) Steps() ([]string, error) {
	groups, err := filepath.Glob(filepath.Join(j.dir(), "step_*"))
	if err != nil {
		return nil, fmt.Errorf("listing the steps of job %d: %w", j.ID, err)
	}
	var steps []string
	for _, g := range groups {
		name := filepath.Base(g)
		if name == batch || name == extern {
			continue
		}
		populated, err := isPopulated(g)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if populated {
			steps = append(steps, name)
		}
	}
	return steps, nil
}

// Others lists the other Slurm jobs that have processes on the node. Slurm
// leaves the empty control groups of a slurmstepd that was killed.
func (j Job) Others() ([]uint32, error) {
	entries, err := os.ReadDir(filepath.Join(Root, j.Scope))
	if err != nil {
		return nil, fmt.Errorf("listing the jobs on this node: %w", err)
	}
	var others []uint32
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "job_")
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("unexpected control group %s", e.Name())
		}
		populated, err := isPopulated(filepath.Join(Root, j.Scope, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if uint32(id) != j.ID && populated {
			others = append(others, uint32(id))
		}
	}
	return others, nil
}

// Frozen reports whether the user's processes of any step are stopped, which is
// how Slurm suspends a job, and how it sends SIGSTOP for a user (cgroup.freeze).
func (j Job) Frozen() (bool, error) {
	groups, err := filepath.Glob(filepath.Join(j.dir(), "step_*", "user"))
	if err != nil {
		return false, fmt.Errorf("listing the steps of job %d: %w", j.ID, err)
	}
	for _, g := range groups {
		frozen, err := event(g, "frozen")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if frozen {
			return true, nil
		}
	}
	return false, nil
}

// Kill ends every process of the user in every step of the job and waits
// until they are gone or ctx ends. A job without a control group has none.
func (j Job) Kill(ctx context.Context) error {
	if mutant.Removed(mutant.KillGroup) {
		return nil
	}
	for {
		busy := 0
		groups, err := filepath.Glob(filepath.Join(j.dir(), "step_*", "user"))
		if err != nil {
			return fmt.Errorf("listing the steps of job %d: %w", j.ID, err)
		}
		for _, g := range groups {
			populated, err := isPopulated(g)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if !populated {
				continue
			}
			busy++
			if err := os.WriteFile(filepath.Join(g, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("killing the processes of job %d: %w", j.ID, err)
			}
		}
		if busy == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes of job %d are still there (%s): %w", j.ID, j.left(), context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stepGrace is what the slurmstepd of a step has, after its tasks were killed,
// to say so to Slurm and end.
const stepGrace = 5 * time.Second

// EndSteps waits until the slurmstepds of the job's steps are gone, the batch
// script's not counted, and kills those that take too long: one may hold the
// files of a step's --output open, or be about to start tasks. Call it after
// Kill, when no new step can come.
func (j Job) EndSteps(ctx context.Context) error {
	for began := time.Now(); ; {
		busy := 0
		groups, err := filepath.Glob(filepath.Join(j.dir(), "step_[0-9]*"))
		if err != nil {
			return fmt.Errorf("listing the steps of job %d: %w", j.ID, err)
		}
		for _, g := range groups {
			populated, err := isPopulated(g)
			if errors.Is(err, fs.ErrNotExist) || err == nil && !populated {
				continue
			}
			if err != nil {
				return err
			}
			busy++
			if time.Since(began) < stepGrace {
				continue
			}
			if err := os.WriteFile(filepath.Join(g, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("killing a step of job %d: %w", j.ID, err)
			}
		}
		if busy == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("steps of job %d are still there: %w", j.ID, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func isPopulated(group string) (bool, error) { return event(group, "populated") }

// event reads one of a group's states.
func event(group, name string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(group, "cgroup.events"))
	if err != nil {
		return false, fmt.Errorf("asking whether %s is %s: %w", group, name, err)
	}
	return strings.Contains(string(b), name+" 1"), nil
}
