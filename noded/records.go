package noded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/session"
	"cloister/noded/unlock"
	"cloister/sealed"

	"go.uber.org/zap"
)

// All records are written from this file: what happened is passed in, what a
// record of it says is decided here.

// note writes a record. The journal has it even where the file has not.
func (d *Daemon) note(e audit.Entry) audit.Head {
	head, err := d.records.Add(e)
	if err != nil {
		d.log.Error("a record is in the journal only", zap.Error(err))
	}
	return head
}

// asked is a record about a launch whose sealed job is not known, or not yet.
func asked(event audit.Event, r *handoff.Request) audit.Entry {
	e := audit.Entry{Event: event, Job: r.Job, UID: &r.UID}
	if !r.Batch() {
		e.Step = &r.Step
	}
	run := sealed.Run{Task: task(r)}
	if r.ArrayTask == noVal { // of the steps of a job that is no array, Slurm says an array of its number
		run.Task = sealed.NoTask
	}
	return ofRun(e, run)
}

// ofRun says which run of its sealed job an entry is about.
func ofRun(e audit.Entry, r sealed.Run) audit.Entry {
	if r.Task != sealed.NoTask {
		n := uint32(r.Task)
		e.Task = &n
	}
	e.Attempt = r.Attempt
	return e
}

// of is a record about a session.
func (l *live) of(event audit.Event) audit.Entry {
	e := audit.Entry{Event: event, Job: l.slurmJob}
	if r := l.record; r != nil {
		e.Session, e.UID, e.User = r.ID, &r.UID, r.User
	}
	return ofRun(e, l.run)
}

func took(e audit.Entry, since time.Time) audit.Entry {
	e.Took = float64(time.Since(since).Microseconds()) / 1000
	return e
}

func outcomeOf(e audit.Entry, err error) audit.Entry {
	e.Outcome = audit.OK
	if err != nil {
		e.Outcome, e.Detail = audit.Failed, err.Error()
	}
	return e
}

// recorded has a record written of each step that is done or undone, and the
// phase shown that the session is in. It is the one place that sees them all.
func (d *Daemon) recorded(l *live, steps []session.Step) []session.Step {
	each := func(event audit.Event, name string, do func() error) error {
		l.phase.Store(&name)
		began := time.Now()
		err := do()
		e := took(l.of(event), began)
		e.Phase = name
		d.note(outcomeOf(e, err))
		return err
	}
	for i, s := range steps {
		steps[i].Do = func(ctx context.Context, save session.Saver) error {
			return each(audit.Done, s.Name, func() error { return s.Do(ctx, save) })
		}
		steps[i].Undo = func(ctx context.Context) error {
			return each(audit.Undone, s.Name, func() error { return s.Undo(ctx) })
		}
	}
	return steps
}

// about is a record's part about a job that is not a session yet.
func (a *admission) about() audit.Entry {
	e := ofRun(asked("", a.request), a.run)
	e.User = a.user.Name
	if a.whole != nil {
		e.Session = a.whole.Job
	}
	return e
}

// noteRefused is of a launch that is sent away, with what its user reads.
func (d *Daemon) noteRefused(c *handoff.Conn, l *live, phase, cause string) {
	e := asked(audit.Refused, &c.Request)
	if l != nil {
		if r, run := d.begun(l); r != nil {
			e = ofRun(e, run)
			e.Session, e.User = r.ID, r.User
		}
	}
	e.Phase, e.Detail = phase, cause
	d.note(e)
}

// noteJoined is of a job step that was let into a session.
func (d *Daemon) noteJoined(c *handoff.Conn, l *live, cwd string) {
	e := ofRun(asked(audit.Joined, &c.Request), l.run)
	e.Session, e.User = l.record.ID, l.record.User
	e.Detail = fmt.Sprintf("%d tasks in %s", c.Request.Tasks, cwd)
	d.note(e)
}

// noteAdmitted returns the record's place, for awaitRecord.
func (d *Daemon) noteAdmitted(l *live, since time.Time) audit.Head {
	return d.note(took(l.of(audit.Admitted), since))
}

// awaitRecord lets no job run whose admission is not on the disk.
func (d *Daemon) awaitRecord(ctx context.Context, h audit.Head) error {
	if h == (audit.Head{}) {
		return errors.New("the admission could not be recorded")
	}
	return d.records.Wait(ctx, h)
}

// noteRunning is of a job whose script may begin.
func (d *Daemon) noteRunning(l *live, since time.Time) { d.note(took(l.of(audit.Running), since)) }

// noteAdopted is of a session that this noded goes on with.
func (d *Daemon) noteAdopted(l *live) { d.note(l.of(audit.Adopted)) }

// noteEnded is of how slurmstepd said that the script ended, if it did.
func (d *Daemon) noteEnded(l *live, o outcome) {
	e := l.of(audit.Ended)
	e.Outcome = audit.OK
	switch status := syscall.WaitStatus(o.end.Status); {
	case l.why != nil:
		e.Outcome, e.Detail = audit.Failed, "the node ended it: "+l.why.Error()
	case o.end.Died:
		e.Outcome, e.Detail = audit.Failed, "slurmstepd is gone"
	case o.err != nil:
		e.Outcome, e.Detail = audit.Failed, o.err.Error()
	case status.Signaled():
		e.Detail = fmt.Sprintf("signal %d", status.Signal())
	default:
		e.Detail = fmt.Sprintf("exit status %d", status.ExitStatus())
	}
	d.note(e)
}

// noteReleased is of a session of which nothing is left.
func (d *Daemon) noteReleased(l *live, since time.Time) { d.note(took(l.of(audit.Released), since)) }

// noteIncident is of what was done about the session or the launch that e tells
// of, or about the node.
func (d *Daemon) noteIncident(i audit.Incident, e audit.Entry, found string) {
	e.Event, e.Incident, e.Detail = audit.Trouble, i, found
	d.note(e)
}

// incidents records what a watch found and put right.
func (d *Daemon) incidents(i audit.Incident) func(string) {
	return func(found string) { d.noteIncident(i, d.present(), found) }
}

// present is a record's part about the session that has the node, if one has.
func (d *Daemon) present() audit.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy == nil {
		return audit.Entry{}
	}
	return d.busy.of("")
}

// recordsPatience is how long the records may fail before the node is given up,
// recordsLook how often that is looked at. The records recover by themselves
// from an error that came once.
var (
	recordsPatience = time.Minute
	recordsLook     = 10 * time.Second
)

// watchRecords gives the node up if its disk keeps no records: it would take
// each secure job of the cluster, and refuse it. A disk that is full is no such
// reason, for anybody who may write there can fill it.
func (d *Daemon) watchRecords(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(recordsLook):
		}
		s := d.records.State()
		if s.Failed != nil && !audit.Full(s.Failed) && time.Since(s.Since) > recordsPatience && d.givenUp() == nil {
			d.giveUp("records cannot be kept", s.Failed)
		}
	}
}

// noteAltered looks, before they are closed, whether a read-only volume's hash
// tree caught a block that is not what was sealed.
func (d *Daemon) noteAltered(l *live) {
	altered, err := unlock.Altered(l.record.ID)
	if err != nil {
		d.log.Warn("looking for altered volumes", zap.Error(err))
	}
	if len(altered) > 0 {
		d.noteIncident(audit.Tampered, l.of(""), "the job was kept from reading altered blocks of "+strings.Join(altered, ", "))
	}
}
