package sealed

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxRuns bounds how often a job may run: each run has a token.
	MaxRuns = MaxTokens

	// MaxTask is the greatest number of a job array's task: what Slurm's
	// MaxArraySize can be at most (slurm.conf(5)), less one.
	MaxTask = 4_000_000

	// NoTask is Run.Task of a job that is no array.
	NoTask = -1
)

// Runs says how often a job may run that may run more than once: each task of a
// job array, and each task anew when Slurm has requeued it.
type Runs struct {
	Tasks    []uint32 `json:"tasks"`    // ascending; empty for a job that is no array
	Attempts int      `json:"attempts"` // of each task: one, and one for each requeue
}

// A Run is one of a job's runs.
type Run struct {
	Task    int64  // of the array, or NoTask
	Attempt uint32 // how often Slurm had requeued it
}

// Count is the number of runs, and so of tokens. Nil is one run.
func (r *Runs) Count() int {
	if r == nil {
		return 1
	}
	return max(1, len(r.Tasks)) * r.Attempts
}

// Array reports whether the job is an array.
func (r *Runs) Array() bool { return r != nil && len(r.Tasks) > 0 }

// Requeues is how often Slurm may requeue each task.
func (r *Runs) Requeues() int {
	if r == nil {
		return 0
	}
	return r.Attempts - 1
}

// All lists the runs in the order of their tokens: by task, then by attempt.
func (r *Runs) All() []Run {
	if r == nil {
		return []Run{{Task: NoTask}}
	}
	tasks := r.Tasks
	if len(tasks) == 0 {
		tasks = []uint32{0}
	}
	var all []Run
	for _, t := range tasks {
		for n := range r.Attempts {
			run := Run{Task: int64(t), Attempt: uint32(n)}
			if !r.Array() {
				run.Task = NoTask
			}
			all = append(all, run)
		}
	}
	return all
}

// String lists the tasks as sbatch's --array has them: "1-3,7"; "" for none.
func (r *Runs) String() string {
	if r == nil {
		return ""
	}
	var b strings.Builder
	for i := 0; i < len(r.Tasks); {
		last := i
		for last+1 < len(r.Tasks) && r.Tasks[last+1] == r.Tasks[last]+1 {
			last++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", r.Tasks[i])
		if last > i {
			fmt.Fprintf(&b, "-%d", r.Tasks[last])
		}
		i = last + 1
	}
	return b.String()
}

// validate wants the one form of it: nil for what runs once.
func (r *Runs) validate() error {
	switch {
	case r == nil:
		return nil
	case r.Attempts < 1 || r.Attempts > MaxRuns || len(r.Tasks) > MaxRuns || r.Count() > MaxRuns:
		return fmt.Errorf("%d tasks of %d attempts each: from 1 to %d runs are served", len(r.Tasks), r.Attempts, MaxRuns)
	case len(r.Tasks) == 0 && r.Attempts == 1:
		return errors.New("runs are given of a job that runs once")
	}
	for i, t := range r.Tasks {
		if t > MaxTask {
			return fmt.Errorf("task %d of an array, at most %d is served", t, MaxTask)
		}
		if i > 0 && t <= r.Tasks[i-1] {
			return fmt.Errorf("task %d of an array is out of order or named twice", t)
		}
	}
	return nil
}

// CheckVolume refuses a volume that the runs cannot share: what one of them
// writes, another would find there or overwrite. Only what the node makes can be
// one file for each run, with %a (task) and %r (attempt) in its name.
func (r *Runs) CheckVolume(path, mode string, create bool) error {
	if mode != ReadWrite {
		return nil
	}
	if !create {
		if r.Array() {
			return errors.New("the tasks of an array cannot write to one volume")
		}
		return nil
	}
	if err := checkPattern(path, "ar%"); err != nil {
		return err
	}
	task, attempt := hasPattern(path, 'a'), hasPattern(path, 'r')
	switch {
	case r.Array() && !task:
		return errors.New("the tasks of an array would all make this volume: its name lacks %a")
	case r.Requeues() > 0 && !attempt:
		return errors.New("a requeued job would make this volume again: its name lacks %r")
	case !r.Array() && task:
		return errors.New("%a is the task of an array, and this job is none")
	case r.Requeues() == 0 && attempt:
		return errors.New("%r is the attempt of a job that may be requeued, and this one may not")
	}
	if len(Run{math.MaxUint32, math.MaxUint32}.expand(path)) > MaxPath {
		return fmt.Errorf("path: with %%a and %%r filled in longer than %d bytes", MaxPath)
	}
	return nil
}

// PerRun reports whether each run has a file of its own for the volume, with
// keys of its own.
func (v *Volume) PerRun() bool {
	return v.Create && (hasPattern(v.Path, 'a') || hasPattern(v.Path, 'r'))
}

// checkMade refuses volumes of which two runs would make the same file.
func (m *Manifest) checkMade() error {
	if m.Runs == nil {
		return nil
	}
	seen := make(map[string]bool)
	for _, v := range m.Volumes {
		if !v.PerRun() {
			seen[v.Path] = true
		}
	}
	for _, v := range m.Volumes {
		if !v.PerRun() {
			continue
		}
		for _, r := range m.Runs.All() {
			path := r.expand(v.Path)
			if seen[path] {
				return fmt.Errorf("volume %q: the file %q would be made twice", v.Path, path)
			}
			seen[path] = true
		}
	}
	return nil
}

// CheckRun refuses what is none of the runs that the job was sealed for: a
// *Refusal of kind ErrOtherRun.
func (m *Manifest) CheckRun(r Run) error {
	const asSealed = "submit it as it was sealed, or seal the script again with the right #SBATCH --array"
	switch {
	case r.Task == NoTask && m.Runs.Array():
		return refuse(ErrOtherRun, asSealed, "this job was sealed as an array of tasks %s, and submitted as none", m.Runs)
	case r.Task != NoTask && !m.Runs.Array():
		return refuse(ErrOtherRun, asSealed, "this job was sealed to run once, and submitted as an array")
	case r.Task != NoTask && !slices.Contains(m.Runs.Tasks, uint32(r.Task)):
		return refuse(ErrOtherRun, asSealed, "task %d is none of those that this job was sealed for (%s)", r.Task, m.Runs)
	case int64(r.Attempt) > int64(m.Runs.Requeues()):
		return refuse(ErrOtherRun, nextSealAgain+"; #CLOISTER requeue=N sets how often it may be requeued",
			"Slurm has requeued this job %d times, it was sealed for %d", r.Attempt, m.Runs.Requeues())
	}
	return nil
}

// ForRun returns the manifest of one of the runs: with its token alone, and with
// the volumes' files as it names them, which have UUIDs of their own.
func (m *Manifest) ForRun(r Run) (*Manifest, error) {
	i := slices.Index(m.Runs.All(), r)
	if i < 0 || len(m.Tokens) != m.Runs.Count() {
		return nil, fmt.Errorf("no run %s of job %s", r.ID(""), m.Job)
	}
	c := *m
	c.Runs, c.Tokens = nil, m.Tokens[i:i+1]
	c.Volumes = slices.Clone(m.Volumes)
	for i := range c.Volumes {
		v := &c.Volumes[i]
		if v.PerRun() {
			v.Pinned.UUID = r.uuid(v.Pinned.UUID)
		}
		if v.Create {
			v.Path, v.Label = r.expand(v.Path), CutLabel(r.expand(v.Label))
		}
	}
	return &c, nil
}

// ID names the run of a job: the job's id, with the task after "_" as Slurm
// writes it, and the attempt after "r" if it is not the first.
func (r Run) ID(job string) string {
	if r.Task != NoTask {
		job += "_" + strconv.FormatInt(r.Task, 10)
	}
	if r.Attempt > 0 {
		job += "r" + strconv.FormatUint(uint64(r.Attempt), 10)
	}
	return job
}

// String names the run to people.
func (r Run) String() string {
	switch {
	case r.Task == NoTask && r.Attempt == 0:
		return "this sealed job"
	case r.Task == NoTask:
		return fmt.Sprintf("attempt %d of this sealed job", r.Attempt)
	case r.Attempt == 0:
		return fmt.Sprintf("task %d of this sealed job", r.Task)
	}
	return fmt.Sprintf("attempt %d of task %d of this sealed job", r.Attempt, r.Task)
}

// task is the run's task, 0 for a job that is no array.
func (r Run) task() string { return strconv.FormatInt(max(0, r.Task), 10) }

// attempt is the run's attempt.
func (r Run) attempt() string { return strconv.FormatUint(uint64(r.Attempt), 10) }

// expand fills in the name of a volume's file.
func (r Run) expand(pattern string) string {
	return strings.NewReplacer("%%", "%", "%a", r.task(), "%r", r.attempt()).Replace(pattern)
}
