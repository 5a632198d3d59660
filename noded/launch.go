package noded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"cloister/mutant"
	"cloister/noded/audit"
	"cloister/noded/cgroup"
	"cloister/noded/handoff"
	"cloister/noded/session"
	"cloister/sealed"

	"go.uber.org/zap"
)

// admitLimit bounds what comes before the first line of a job, below the two
// minutes that the plugin waits.
const admitLimit = 110 * time.Second

// launch answers one launch and, for an admitted job, stays until its end.
func (d *Daemon) launch(ctx context.Context, c *handoff.Conn) {
	began := time.Now()
	r := &c.Request
	log := d.log.With(zap.Uint32("job", r.Job), zap.Uint32("step", r.Step), zap.Uint32("uid", r.UID))
	if reason := d.unfit(r.Secure); reason != "" {
		d.refuse(c, nil, log, "admit", refusal(reason, "ask the administrator; on the node: cloister node status"))
		return
	}
	if !r.Secure || !r.Batch() {
		d.ordinary(c, log)
		return
	}
	l := newLive(r.Job)
	if !d.take(l) {
		d.refuse(c, nil, log, "admit", refusal("another secure job has this node", "submit to a partition that gives whole nodes (OverSubscribe=EXCLUSIVE), or with --exclusive"))
		return
	}
	d.status()
	l.laps.begin(began)
	l.laps.end("check")
	d.run(ctx, c, l, began, log)
	d.letGo(ctx, l)
}

// letGo takes a session off the node, in Slurm too if that was told of it, or
// leaves the job to the next noded.
func (d *Daemon) letGo(ctx context.Context, l *live) {
	overwriteFreed()
	d.release(l)
	d.status()
	if ctx.Err() != nil {
		return
	}
	d.takeBack(ctx, l)
}

// unfit says why nothing may be launched here, "" if something may. What is
// wrong with an on-demand node does not concern its ordinary jobs.
func (d *Daemon) unfit(secure bool) string {
	d.mu.Lock()
	fenced := d.fenced
	d.mu.Unlock()
	if fenced != nil {
		return "this node is out of service: " + fenced.Reason
	}
	if !secure && !d.dedicated() {
		return ""
	}
	if faults := d.check(); len(faults) > 0 {
		return "this node is not fit to run secure jobs: " + faults[0]
	}
	return ""
}

func (d *Daemon) take(l *live) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy != nil {
		return false
	}
	d.busy = l
	return true
}

func (d *Daemon) release(l *live) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy == l {
		d.busy = nil
	}
}

// ordinary answers a step that brings no sealed job: put to the session of its
// job, refused on a dedicated node and beside a session, let through on an idle
// on-demand node.
func (d *Daemon) ordinary(c *handoff.Conn, log *zap.Logger) {
	r := &c.Request
	d.mu.Lock()
	busy := d.busy
	pass := (busy == nil || mutant.Removed(mutant.OneJob)) && !d.dedicated() && !r.Secure
	var err error
	if pass {
		err = d.passed.add(c.PID(), r.Job)
	}
	d.mu.Unlock()
	switch {
	case pass:
		if err = cmp.Or(err, d.markUnsigned()); err != nil {
			d.refuse(c, nil, log, "admit", err)
			return
		}
		if err := c.Pass(); err != nil {
			log.Warn("answering a launch", zap.Error(err))
		}
	case busy != nil && busy.slurmJob == r.Job:
		d.join(c, busy, log)
	case busy != nil:
		d.refuse(c, nil, log, "admit", refusal("a secure job has this node to itself", "submit to another node, or wait until it ends"))
	case r.Secure:
		d.refuse(c, nil, log, "admit", refusal("only batch jobs can be sealed", "write a batch script, seal it, and submit it with sbatch --secure"))
	default:
		d.refuse(c, nil, log, "admit", refusal("this node runs sealed jobs only", "seal the script and submit it with sbatch --secure, or use another partition"))
	}
}

// unsignedMark is a file on tmpfs which says that a step without a sealed job
// ran since boot.
const unsignedMark = "unsigned-step-since-boot"

func (d *Daemon) markUnsigned() error {
	f, err := os.OpenFile(d.path(unsignedMark), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("noting an ordinary step: %w", err)
	}
	return f.Close()
}

// alone refuses while anything else of Slurm's is on an on-demand node. That is
// also a step of this job: its script, which has not begun, cannot have started
// it, and it would be the host's, beside the session.
func (d *Daemon) alone(job cgroup.Job) error {
	if d.dedicated() {
		return nil
	}
	others, err := job.Others()
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return besides(others[0])
	}
	own, err := job.Steps()
	if err != nil {
		return err
	}
	if len(own) > 0 {
		return errStepBefore
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if id, found := d.passed.running(); found && id == job.ID {
		return errStepBefore
	} else if found {
		return besides(id)
	}
	if d.policy.RequireFreshBoot && !mutant.Removed(mutant.FreshBoot) {
		if _, err := os.Stat(d.path(unsignedMark)); err == nil {
			return refusal("ordinary jobs ran on this node since it booted, and its policy wants a fresh boot", "ask the administrator to reboot the node, or use a dedicated one")
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("looking for ordinary steps: %w", err)
		}
	}
	return nil
}

func besides(job uint32) error {
	return refusal(fmt.Sprintf("job %d is on this node too", job), "submit to a partition that gives whole nodes (OverSubscribe=EXCLUSIVE), or with --exclusive")
}

var errStepBefore = refusal("a step of the job runs on this node, and the job's script did not start it", "if you did not start it yourself, with srun --jobid, somebody else uses your account: tell your security officer; then submit again")

// run admits the job, waits for its end and undoes everything. If ctx ends
// while the job runs, the session is left as it is for the next noded. started
// is when the launch was read.
func (d *Daemon) run(ctx context.Context, c *handoff.Conn, l *live, started time.Time, log *zap.Logger) {
	setup, cancel := context.WithTimeoutCause(ctx, admitLimit, errors.New("the launch took too long"))
	defer cancel()
	// When slurmstepd dies, nothing of the job may start any more.
	ended := make(chan outcome, 1)
	go func() {
		end, err := c.WaitEnd(ctx)
		ended <- outcome{end, err}
		cancel()
	}()
	setup, abort := context.WithCancelCause(setup)
	defer abort(nil)
	go func() {
		select {
		case <-l.stopped:
			abort(l.why)
		case <-setup.Done():
		}
	}()
	a, group, err := d.consider(setup, c, l)
	if err != nil {
		d.refuse(c, nil, log, "admit", err)
		return
	}
	defer a.close()
	log = log.With(zap.String("session", a.manifest.Job), zap.String("run", a.id()), zap.String("user", a.user.Name))
	log.Info("admitted", zap.Duration("took", time.Since(started)))
	run := a.run // a pointer into a would keep all of it, with its tokens, for as long as the record
	d.begin(l, a.run, &session.Record{ID: a.manifest.Job, Job: l.slurmJob, Run: &run, Stepd: c.PID(), UID: a.user.UID, GID: a.user.GID, Groups: a.user.Groups, User: a.user.Name, Cgroup: group, Started: started.UTC()})
	admitted := d.noteAdmitted(l, started)
	steps := d.steps(l, a)
	if err := session.Run(setup, d.journal, l.record, steps); err != nil {
		d.failed(c, l, log, err)
		return
	}
	wanted := make(chan error, 1)
	go func() { wanted <- d.stillWanted(setup, l.slurmJob) }()
	err = errors.Join(d.keep(c, l), d.awaitRecord(setup, admitted), <-wanted, l.awaitHeaders(setup))
	answer := d.answer(a, l.view)
	err = errors.Join(err, answer.Check())
	if err == nil {
		err = d.leaveFiles(l.record)
	}
	if err != nil {
		d.failed(c, l, log, errors.Join(err, d.undo(l, steps)))
		return
	}
	l.unlock()
	d.noteRunning(l, started)
	l.laps.end("keep")
	if err := c.Admit(answer); err != nil {
		log.Warn("slurmstepd went away before the job started", zap.Error(err))
		d.finish(c, l, steps, outcome{err: err}, log)
		return
	}
	log.Info("started", zap.Duration("took", time.Since(started)), zap.Object("parts", l.laps.take()))
	defer d.usingUpSpare(ctx, a)()
	a.close() // the loop devices have the volumes now, and their locks
	o := d.awaitEnd(l, ended)
	if ctx.Err() != nil {
		log.Info("noded ends, the job goes on")
		return
	}
	d.noteEnded(l, o)
	d.finish(c, l, steps, o, log)
}

// An outcome is how slurmstepd said that a job ended, or that it did not say.
type outcome struct {
	end handoff.End
	err error
}

// unsaid: slurmstepd is gone, or cannot be heard.
func (o outcome) unsaid() bool { return o.end.Died || o.err != nil }

// tell is what the user reads of it in slurm-%j.out, which has nothing of the
// script's own.
func (o outcome) tell() []string {
	const next = "next: read what it printed in the volume: cloister volume extract"
	status := syscall.WaitStatus(o.end.Status)
	switch {
	case o.unsaid():
		return nil // nobody is there to read it
	case status.Signaled():
		return []string{fmt.Sprintf("the script was ended by signal %d (%s)", status.Signal(), status.Signal()), next}
	case status.ExitStatus() != 0:
		return []string{fmt.Sprintf("the script ended with exit status %d", status.ExitStatus()), next}
	}
	return []string{"the script ended with exit status 0"}
}

// consider admits the job if it may run and the node is free for it.
func (d *Daemon) consider(ctx context.Context, c *handoff.Conn, l *live) (*admission, cgroup.Job, error) {
	group, err := cgroup.OfStepd(c.PID(), c.Request.Job)
	if err != nil {
		return nil, group, err
	}
	if err := d.alone(group); err != nil {
		if err == errStepBefore {
			d.noteIncident(audit.StepRefused, asked("", &c.Request), err.Error())
		}
		return nil, group, err
	}
	a, err := d.admit(ctx, &c.Request, &l.laps)
	return a, group, err
}

// finish undoes a session and tells slurmstepd, if it is still there.
func (d *Daemon) finish(c *handoff.Conn, l *live, steps []session.Step, o outcome, log *zap.Logger) {
	began := time.Now()
	l.laps.begin(began)
	if err := d.undo(l, steps); err != nil {
		d.fence(err)
		_ = c.Fenced("the node could not be cleaned and was taken out of service; your data stays locked in", "tell the administrator: "+d.node+" is drained")
		return
	}
	d.noteReleased(l, began)
	log.Info("released", zap.Duration("took", time.Since(began)), zap.Object("parts", l.laps.take()))
	if o.unsaid() {
		d.cancel(l.slurmJob, log)
	}
	var said []string
	if l.why != nil {
		said = append(said, strings.ReplaceAll("the node ended the job: "+l.why.Error(), "\n", "; "))
	}
	said = append(said, o.tell()...)
	ended := "the secure session ended; volumes closed, keys wiped"
	if l.forced {
		ended = "the secure session ended, keys wiped; a volume was closed by force and lacks what was not stored by then: read it with cloister volume extract --any-state"
	}
	_ = c.Released(append(said, ended)...)
}

func (d *Daemon) undo(l *live, steps []session.Step) error {
	defer d.forget()
	l.shut()
	return session.Undo(d.journal, l.record, steps)
}

// failed answers a launch whose steps failed and were undone.
func (d *Daemon) failed(c *handoff.Conn, l *live, log *zap.Logger, err error) {
	var fence *session.FenceError
	if errors.As(err, &fence) {
		d.fence(fence)
	}
	phase := "admit"
	var step *session.StepError
	if errors.As(err, &step) {
		phase = step.Step
	}
	d.refuse(c, l, log, phase, err)
}

// refuse sends the user one cause and one next step. Errors that are not
// refusals are the node's own trouble; their text may name the node's files,
// never a secret.
func (d *Daemon) refuse(c *handoff.Conn, l *live, log *zap.Logger, phase string, err error) {
	cause, next := err.Error(), "tell the administrator: journalctl -u cloister-noded on "+d.node
	var known *sealed.Refusal
	if errors.As(err, &known) {
		cause, next = known.Cause, known.Next
	}
	cause = strings.ReplaceAll(cause, "\n", "; ")
	d.noteRefused(c, l, phase, cause)
	if err := c.Refuse("refused in phase "+phase+": "+cause, "next: "+next); err != nil {
		log.Warn("answering a launch", zap.Error(err))
	}
}

// cancel tells Slurm of a job that is over though no slurmstepd said so: else it
// would be RUNNING, and hold the node, until its time limit.
func (d *Daemon) cancel(job uint32, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), slurmLimit)
	defer cancel()
	if err := d.slurm.Cancel(ctx, job); err != nil {
		log.Error("the job is over, but Slurm could not be told", zap.Error(err))
	}
}
