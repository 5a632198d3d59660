package noded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"cloister/noded/handoff"
	"cloister/noded/jobview"
	"cloister/noded/session"
	"cloister/noded/stepproof"
	"cloister/noded/unlock"
	"cloister/sealed"

	"go.uber.org/zap"
)

// The names under which a session's descriptors are in systemd's store. There
// is one session at a time, so they need no number.
const (
	keptLifeline = "cloister-lifeline"
	keptMount    = "cloister-mount"
	keptIPC      = "cloister-ipc"
	keptStepKey  = "cloister-step-key"
)

// keep gives systemd what a restarted noded needs to go on with the session.
func (d *Daemon) keep(c *handoff.Conn, l *live) error {
	life, err := c.File()
	if err != nil {
		return err
	}
	defer life.Close()
	key, err := l.stepKey.File()
	if err != nil {
		return err
	}
	defer key.Close()
	return errors.Join(d.systemd.Keep(keptLifeline, life), d.systemd.Keep(keptMount, l.view.Mount), d.systemd.Keep(keptIPC, l.view.IPC),
		d.systemd.Keep(keptStepKey, key))
}

// forget takes the session's descriptors out of systemd's store. One that stays
// is of no session, so the next noded closes it.
func (d *Daemon) forget() {
	for _, name := range []string{keptLifeline, keptMount, keptIPC, keptStepKey} {
		if err := d.systemd.Forget(name); err != nil {
			d.log.Warn("a descriptor stays until noded starts anew", zap.String("name", name), zap.Error(err))
		}
	}
}

// Recover finishes what a predecessor left: a session whose job runs and
// whose lifeline is here goes on, every other one is undone. Call it before
// Serve, but after systemd was told that noded is ready: it starts units that
// are ordered after noded.
func (d *Daemon) Recover(ctx context.Context, kept []*os.File) error {
	if d.recovering != nil {
		defer close(d.recovering)
	}
	store := sort(kept)
	defer store.close()
	life := store[keptLifeline]
	records, err := d.journal.Load()
	if err != nil {
		d.giveUp("nobody knows what a predecessor of noded left", err)
		if err := d.holdUnknown(ctx); err != nil {
			return err
		}
		return ctx.Err()
	}
	var adopted []string
	stuck := false
	for _, r := range records {
		log := d.log.With(zap.Uint32("job", r.Job), zap.String("session", r.ID), zap.String("user", r.User))
		if slices.Contains(r.Begun, stepRun) && !r.Releasing && life != nil {
			c, err := handoff.Adopt(life)
			if err == nil {
				locked := d.lockNetwork(ctx, d.lock.InSession()) // whatever happened meanwhile
				l := newLive(r.Job)
				l.heldBack.Store(true) // by a predecessor, perhaps
				d.begin(l, runOf(r), r)
				d.noteAdopted(l)
				if err := store.reopen(l); err != nil {
					log.Warn("the session goes on, but takes no more steps", zap.Error(err))
				}
				d.take(l)
				d.watchLocked(ctx, nil)
				adopted = append(adopted, r.ID)
				d.adopted.Go(func() { d.goOn(ctx, c, l, log) })
				if locked != nil {
					l.end(locked)
					d.giveUp("the node cannot be kept locked", locked)
				}
				continue
			}
			log.Error("adopting a session", zap.Error(err))
		}
		log.Warn("undoing a session that a predecessor left")
		store.close() // an open namespace would keep the volumes in use
		l := newLive(r.Job)
		d.begin(l, runOf(r), r)
		d.take(l) // for whoever asks what the node does
		if err := session.Undo(d.journal, r, d.steps(l, nil)); err != nil {
			stuck = true
			d.fence(fmt.Errorf("undoing session %s: %w", r.ID, err))
			if err := d.holdLock(ctx, r); err != nil {
				return err
			}
			d.release(l)
			continue
		}
		d.release(l)
		go d.cancel(r.Job, log) // Slurm need not be up before noded
	}
	if d.dedicated() {
		if len(records) > 0 && len(adopted) == 0 && !stuck { // see lockAtStart
			if err := d.lockNetwork(ctx, d.lock); err != nil {
				return err
			}
		}
		d.watchLocked(ctx, nil)
	}
	if len(adopted) == 0 {
		l := newLive(0)
		l.heldBack.Store(true) // by a predecessor, perhaps, for a job that is over
		go d.takeBack(ctx, l)  // Slurm need not be up before noded
		d.forget()
		err := d.closeStrays(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			d.fence(err)
		}
		if len(records) == 0 && !d.dedicated() {
			if err := d.openLeft(ctx); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// awaitRecovery waits until it is known which sessions were left, and those that
// do not go on are undone: nobody else may undo, or miss, one meanwhile.
func (d *Daemon) awaitRecovery(ctx context.Context) {
	if d.recovering == nil {
		return
	}
	select {
	case <-d.recovering:
	case <-ctx.Done():
	}
}

// runOf is the run that a session is of, as its journal has it.
func runOf(r *session.Record) sealed.Run {
	if r.Run == nil {
		return onlyRun
	}
	return *r.Run
}

// holdLock keeps a node locked whose session could not be undone: the lock is
// its predecessor's, but nobody watches over it yet.
func (d *Daemon) holdLock(ctx context.Context, r *session.Record) error {
	if d.dedicated() || !slices.Contains(r.Begun, stepLock) {
		return nil
	}
	if err := d.lockNetwork(ctx, d.lock.InSession()); err != nil {
		return err
	}
	d.watchLocked(ctx, nil)
	return nil
}

// holdUnknown keeps a node locked as a session may have left it of which nobody
// knows: its processes belong to nobody and are ended.
func (d *Daemon) holdUnknown(ctx context.Context) error {
	locked, err := d.locked()
	if err != nil || !locked {
		return err
	}
	if err := d.lockNetwork(ctx, d.lock.InSession()); err != nil {
		return err
	}
	d.watchLocked(ctx, nil)
	return nil
}

// locked reports whether anything of a lock is in force.
func (d *Daemon) locked() (bool, error) {
	there, err := d.filter.Exists()
	if err != nil || there {
		return there, err
	}
	return d.doors.Closed()
}

// openLeft opens an on-demand node that is locked for no session: the journal's
// entry was taken away. One that was given up stays as it is, and is watched.
func (d *Daemon) openLeft(ctx context.Context) error {
	if d.givenUp() != nil {
		return d.holdUnknown(ctx)
	}
	locked, err := d.locked()
	if err != nil || !locked {
		return err
	}
	d.log.Warn("opening a node that is locked for no session; what ran before its doors were closed is not known, start it by hand")
	if err := d.openUnknown(ctx); err != nil {
		d.giveUp("a lock that was left could not be undone", err)
		return d.holdUnknown(ctx)
	}
	return nil
}

// keptFiles are the descriptors that came back from systemd's store, by name.
type keptFiles map[string]*os.File

// sort closes what is unknown or there twice: a namespace that is open here
// keeps its volumes in use.
func sort(kept []*os.File) keptFiles {
	files := make(keptFiles)
	for _, f := range kept {
		known := slices.Contains([]string{keptLifeline, keptMount, keptIPC, keptStepKey}, f.Name())
		if !known || files[f.Name()] != nil {
			f.Close()
			continue
		}
		files[f.Name()] = f
	}
	return files
}

func (k keptFiles) close() {
	for name, f := range k {
		f.Close()
		delete(k, name)
	}
}

// reopen gives an adopted session its view and its step key, so that it takes
// steps again. The view's files are the session's from then on.
func (k keptFiles) reopen(l *live) error {
	if k[keptMount] == nil || k[keptIPC] == nil || k[keptStepKey] == nil {
		return errors.New("its view or its step key was not kept")
	}
	key, err := stepproof.ReadKey(k[keptStepKey])
	if err != nil {
		return err
	}
	l.stepKey = key
	l.view = &jobview.View{Mount: k[keptMount], IPC: k[keptIPC]}
	delete(k, keptMount)
	delete(k, keptIPC)
	l.unlock()
	return nil
}

// closeStrays closes the volumes of sessions that no journal knows: on a node
// without a session there are none.
func (d *Daemon) closeStrays(ctx context.Context) error {
	sessions, err := unlock.Sessions()
	if err != nil {
		return err
	}
	for _, s := range sessions {
		d.log.Warn("closing the volumes of a forgotten session", zap.String("session", s))
		if err := unlock.Close(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// goOn waits for the end of an adopted session.
func (d *Daemon) goOn(ctx context.Context, c *handoff.Conn, l *live, log *zap.Logger) {
	defer c.Close()
	ended := make(chan outcome, 1)
	go func() {
		end, err := c.WaitEnd(ctx)
		ended <- outcome{end, err}
	}()
	o := d.awaitEnd(l, ended)
	if ctx.Err() != nil {
		log.Info("noded ends, the job goes on")
		return
	}
	d.noteEnded(l, o)
	d.finish(c, l, d.steps(l, nil), o, log)
	d.letGo(ctx, l)
}
