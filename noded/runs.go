package noded

import (
	"context"
	"fmt"
	"slices"

	"cloister/noded/handoff"
	"cloister/sealed"

	"go.uber.org/zap"
)

// noVal is Slurm's NO_VAL (slurm/slurm.h): the array of a job of none.
const noVal = 0xfffffffe

// onlyRun is that of a job that runs once.
var onlyRun = sealed.Run{Task: sealed.NoTask}

// chooseRun finds out which of the runs that the job was sealed for this launch
// is, and narrows the admission to it. The task comes from slurmstepd, how often
// the job was requeued from slurmctld, which slurmstepd does not say (Slurm
// 24.11). Neither is trusted: what they say chooses a token and a name among
// those that the user sealed, and each is used once.
func (d *Daemon) chooseRun(ctx context.Context, a *admission) error {
	a.run = sealed.Run{Task: task(a.request)}
	if a.whole.Runs.Requeues() > 0 {
		ctx, cancel := context.WithTimeout(ctx, slurmLimit)
		defer cancel()
		j, err := d.slurm.Job(ctx, a.request.Job)
		if err != nil {
			return refusal(fmt.Sprintf("Slurm does not say how often it has requeued this job: %v", err), "nothing was used up: submit the same sealed job again, or ask the cluster's administrator")
		}
		a.run.Attempt = j.Restarts
	}
	if err := a.whole.CheckRun(a.run); err != nil {
		return err
	}
	var err error
	a.manifest, err = a.whole.ForRun(a.run)
	return err
}

// task is the launch's task of a job array.
func task(r *handoff.Request) int64 {
	if r.ArrayJob == 0 || r.ArrayJob == noVal {
		return sealed.NoTask
	}
	return int64(r.ArrayTask)
}

// ranBefore is what the user reads of a run that this node remembers.
func (a *admission) ranBefore() error {
	next := nextSealAgain
	if a.whole.Runs.Requeues() == 0 {
		next += "; if Slurm requeued the job: #CLOISTER requeue=1 lets it run again"
	}
	return refusal(a.run.String()+" has already run here: each runs once", next)
}

// arrayVariables are Slurm's facts about an array as they were sealed.
func (a *admission) arrayVariables() map[string]string {
	runs := a.whole.Runs
	if !runs.Array() {
		return nil
	}
	return map[string]string{
		"SLURM_ARRAY_TASK_ID":    fmt.Sprint(a.run.Task),
		"SLURM_ARRAY_TASK_COUNT": fmt.Sprint(len(runs.Tasks)),
		"SLURM_ARRAY_TASK_MIN":   fmt.Sprint(runs.Tasks[0]),
		"SLURM_ARRAY_TASK_MAX":   fmt.Sprint(runs.Tasks[len(runs.Tasks)-1]),
	}
}

// stillWanted refuses a job that ended while it was admitted: slurmstepd, which
// waits for the answer, hears of that only when it has started the script. If
// Slurm does not say, the job goes on: what a session protects does not depend
// on it.
func (d *Daemon) stillWanted(ctx context.Context, job uint32) error {
	ctx, cancel := context.WithTimeout(ctx, slurmLimit)
	defer cancel()
	j, err := d.slurm.Job(ctx, job)
	if err != nil {
		d.log.Warn("Slurm does not say whether the job was cancelled meanwhile", zap.Uint32("job", job), zap.Error(err))
		return nil
	}
	if !slices.Contains([]string{"RUNNING", "CONFIGURING", "SUSPENDED"}, j.State) {
		return refusal(fmt.Sprintf("the job is %s: it was ended before its script started", j.State), nextSealAgain)
	}
	return nil
}
