package noded

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloister/noded/audit"
	"cloister/noded/session"
	"cloister/noded/status"
)

const nextFenced = "mend what failed, or reboot the node, then again: cloister node recover"

// A retry tries a node again, line by line.
type retry struct {
	status.Recovery
	failed bool
}

func (r *retry) line(what string, err error) bool {
	l := status.Line{What: what}
	if err != nil {
		l.Error, r.failed = strings.ReplaceAll(err.Error(), "\n", "; "), true
	}
	r.Lines = append(r.Lines, l)
	return err == nil
}

// Retry undoes what could not be undone when the node was given up, and takes
// the node back into service if nothing is left and nothing is wrong with it:
// here, and in Slurm where noded itself drained it.
func (d *Daemon) Retry(ctx context.Context) *status.Recovery {
	r := new(retry)
	defer d.status()
	d.awaitRecovery(ctx)
	l := newLive(0)
	if !d.take(l) { // so that nothing begins meanwhile
		r.line("waiting for the session that has the node", errors.New("it goes on"))
		r.Next = "wait until its job has ended, or scancel it; then again: cloister node recover"
		return &r.Recovery
	}
	defer d.release(l)
	d.clean(ctx, r)
	for _, f := range d.check() {
		r.line("checking the node", errors.New(f))
	}
	if err := d.records.State().Failed; err != nil {
		r.line("keeping records", err)
	}
	if !r.failed && r.line("letting noded launch again", d.forgetFence()) {
		r.Recovered = true
		d.resume(ctx, r)
	} else {
		r.Next = nextFenced
	}
	d.noteRecovery(r)
	return &r.Recovery
}

// clean undoes sessions and closes what no session owns; a dedicated node is
// locked anew, with watches that watch.
func (d *Daemon) clean(ctx context.Context, r *retry) {
	records, err := d.journal.Load()
	if err != nil {
		r.line("reading the session journal", err)
		return
	}
	for _, record := range records {
		l := newLive(record.Job)
		l.record = record
		r.line(fmt.Sprintf("undoing what is left of job %d of %s", record.Job, record.User), session.Undo(d.journal, record, d.steps(l, nil)))
	}
	if r.failed {
		return // a volume of that session would be closed under it
	}
	if len(records) == 0 {
		r.line("looking for sessions that are left: none", nil)
	}
	r.line("closing volumes that no session owns", d.closeStrays(ctx))
	if !d.dedicated() && !r.failed {
		d.openForgotten(ctx, r)
	}
	if d.dedicated() && !r.failed {
		d.unwatchLocked()
		// The watches must not end with the question.
		err := d.lockForGood(context.WithoutCancel(ctx), d.lock)
		if err == nil {
			d.watchLocked(ctx, nil)
		}
		r.line("locking the node", err)
	}
}

// openForgotten opens a node that is locked though no session is known.
func (d *Daemon) openForgotten(ctx context.Context, r *retry) {
	locked, err := d.locked()
	if err != nil {
		r.line("looking for a lock that is left", err)
		return
	}
	if locked || d.watching(watchFilter) {
		r.line("opening the node; what ran before its doors were closed is not known, start it by hand", d.openUnknown(ctx))
	}
}

// openUnknown opens a node of whose doors nobody knows which were open.
func (d *Daemon) openUnknown(ctx context.Context) error {
	l := newLive(0)
	l.record = new(session.Record)
	return d.openNode(ctx, l)
}

// resume takes the node out of noded's own drain. An administrator's is left.
func (d *Daemon) resume(ctx context.Context, r *retry) {
	ctx, cancel := context.WithTimeout(ctx, slurmLimit)
	defer cancel()
	resumed, reason, err := d.slurm.Resume(ctx, drainMark)
	switch {
	case err != nil:
		r.line("resuming the node in Slurm", err)
		r.Next = "scontrol update nodename=" + d.node + " state=resume"
	case resumed:
		r.line("resuming the node in Slurm", nil)
	case reason != "":
		r.line(fmt.Sprintf("leaving the node as it is in Slurm: somebody else drained it (%s)", reason), nil)
		r.Next = "if that is over: scontrol update nodename=" + d.node + " state=resume"
	default:
		r.line("leaving the node as it is in Slurm: it is not drained", nil)
	}
}

func (d *Daemon) noteRecovery(r *retry) {
	e := audit.Entry{Event: audit.Recovered, Outcome: audit.OK}
	if !r.Recovered {
		e.Outcome = audit.Failed
	}
	var said []string
	for _, l := range r.Lines {
		if l.Error != "" {
			said = append(said, l.What+": "+l.Error)
		}
	}
	e.Detail = strings.Join(said, "; ")
	d.note(e)
}
