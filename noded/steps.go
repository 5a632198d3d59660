package noded

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloister/mutant"
	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/jobview"
	"cloister/noded/keyring"
	"cloister/noded/lockdown"
	"cloister/noded/session"
	"cloister/noded/stepproof"
	"cloister/noded/unlock"
	"cloister/sealed"

	"go.uber.org/zap"
)

// The steps of a session, in order. The node is locked before the key is
// asked for, so that keys never exist on a node that others can reach.
const (
	stepImage  = "image"
	stepLock   = session.Lock
	stepKeys   = "keys"
	stepUnlock = "unlock"
	stepView   = "view"
	stepRun    = "run"
)

// A live session is what exists of one in this process besides its record.
type live struct {
	slurmJob uint32
	since    time.Time
	record   *session.Record
	run      sealed.Run

	imageFile  string // the verified copy, "" without one
	secrets    *sealed.Secrets
	opened     []*unlock.Opened
	held       []*unlock.Held // the volumes of opened that are for writing
	view       *jobview.View
	closing    closings // of mounts and of the view
	stepKey    stepproof.Key
	door       door
	phase      atomic.Pointer[string]
	laps       laps
	headers    []<-chan error     // what became of the headers of new volumes, once they are written
	endHeaders context.CancelFunc // kills who writes them; nil before the first
	forced     bool               // a volume could not be closed as it should
	heldBack   atomic.Bool        // the node is, or may be, drained for its job is suspended

	// stopped is closed when the node can't keep the session; why says so.
	stop    sync.Once
	stopped chan struct{}
	why     error
}

// steps pairs what a session does with how it is undone. For a predecessor's
// session there is no admission: only the undo halves are used then, which
// work from the record.
func (d *Daemon) steps(l *live, a *admission) []session.Step {
	dir := d.path("session-" + l.record.ID)
	return d.recorded(l, l.timed([]session.Step{
		{
			Name: stepImage,
			Do: func(context.Context, session.Saver) error {
				// Before the job's token is used up.
				spec := d.viewSpec(a)
				if err := spec.CheckDirectory(); err != nil {
					return err
				}
				return d.takeImage(dir, l, a)
			},
			Undo: func(context.Context) error { return removeScratch(dir) },
		},
		{
			Name: stepLock,
			Do: func(ctx context.Context, save session.Saver) error {
				d.noteQuestion(a)
				return d.lockNode(ctx, l, save)
			},
			Undo: func(ctx context.Context) error { return errors.Join(d.takeBackQuestion(a), d.openNode(ctx, l)) },
		},
		{
			Name: stepKeys,
			Do:   func(ctx context.Context, save session.Saver) error { return d.takeKeys(ctx, l, a, save) },
			Undo: func(ctx context.Context) error {
				l.wipe()
				d.removeFiles(ctx, l.record)
				return nil
			},
		},
		{
			Name: stepUnlock,
			Do: func(ctx context.Context, _ session.Saver) error {
				defer l.secrets.WipeKeys() // the kernel has them now, or nobody
				err := errors.Join(d.openVolumes(ctx, l, a), <-a.claimed)
				if err == nil {
					err = d.checkImage(ctx, l, a)
				}
				return err
			},
			Undo: func(ctx context.Context) error {
				d.noteAltered(l)
				l.closeMounts()
				l.stopHeaders(ctx)
				// Also beside a mount that does not close: the keys must leave the kernel.
				return errors.Join(d.closeVolumes(ctx, l), l.closing.wait(ctx))
			},
		},
		{
			Name: stepView,
			Do:   func(ctx context.Context, _ session.Saver) error { return d.buildView(ctx, l, a) },
			Undo: func(ctx context.Context) error { return d.dropView(ctx, l) },
		},
		{
			// Last begun, first undone: nothing of the job is left before
			// anything else is taken back.
			Name: stepRun,
			Do:   func(context.Context, session.Saver) error { return nil },
			Undo: func(ctx context.Context) error {
				if err := d.endProcesses(ctx, l.record.Cgroup); err != nil {
					return err
				}
				return errors.Join(l.record.Cgroup.EndSteps(ctx), d.wipeKeyrings(ctx, l))
			},
		},
	}))
}

// closeVolumes takes as long as it takes to store what the job wrote: ctx's
// deadline is for the rest.
func (d *Daemon) closeVolumes(ctx context.Context, l *live) error {
	r, err := unlock.Release(context.WithoutCancel(ctx), l.record.ID)
	l.laps.set("flush", r.Flushed)
	l.forced = l.forced || err != nil || len(r.Adrift) > 0
	if len(r.Adrift) > 0 {
		d.noteIncident(audit.VolumeAdrift, l.of(""), strings.Join(r.Adrift, ", "))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heldLimit)
	defer cancel()
	d.releaseHeld(ctx, l)
	return err
}

// heldLimit bounds the taking back of notes on volumes, on a server that may be
// dead.
const heldLimit = 20 * time.Second

// wipeKeyrings leaves no key of the job's user in the kernel, but for what she
// herself keeps there, which is an incident.
func (d *Daemon) wipeKeyrings(ctx context.Context, l *live) error {
	kept, err := keyring.Wipe(ctx, l.record.UID, l.record.GID)
	if kept != "" {
		d.noteIncident(audit.KeysKept, l.of(""), kept)
	}
	return err
}

// lockNode closes the network and the doors, and ends what others run here.
func (d *Daemon) lockNode(ctx context.Context, l *live, save session.Saver) error {
	// A node whose doors only just began to open again must be as it was first.
	if err := wait(ctx, &d.opening); err != nil {
		return err
	}
	reached, err := d.doors.Reach(ctx)
	if err != nil {
		return err
	}
	watched := false
	defer func() {
		if !watched {
			reached.Done()
		}
	}()
	doors, err := reached.Survey(ctx)
	if err != nil {
		return err
	}
	if l.record.Doors, err = json.Marshal(doors); err != nil {
		return fmt.Errorf("recording the doors: %w", err)
	}
	if err := save(); err != nil {
		return err
	}
	l.laps.end("survey")
	if err := d.lockNetwork(ctx, d.lock.InSession()); err != nil {
		return err
	}
	l.laps.end("network")
	defer d.freePeople(ctx)()
	if err := reached.Close(ctx); err != nil {
		return err
	}
	l.laps.end("doors")
	ended, err := lockdown.EndForeign(ctx, l.record.UID, l.record.Cgroup.Batch())
	for _, p := range ended {
		d.log.Info("ended a process that does not belong to the job", zap.Stringer("process", p))
	}
	if err != nil {
		return err
	}
	l.laps.end("foreign")
	if exposed, err := d.filter.Exposed(ctx, d.lock.InSession()); err != nil {
		return err
	} else if len(exposed) > 0 {
		return refusal(fmt.Sprintf("something listens at %v on this node, a port that its packet filter leaves to srun", exposed), nextAdministrator)
	}
	watched = d.watchLocked(ctx, reached)
	return nil
}

// openNode puts a node back as it was: a dedicated one stays locked, but
// answers login nodes again.
func (d *Daemon) openNode(ctx context.Context, l *live) error {
	if d.dedicated() {
		return d.lockNetwork(ctx, d.lock)
	}
	var doors lockdown.DoorState
	if len(l.record.Doors) > 0 {
		if err := json.Unmarshal(l.record.Doors, &doors); err != nil {
			return fmt.Errorf("reading the doors in the journal: %w", err)
		}
	}
	d.unwatchLocked()
	if err := d.openNetwork(ctx); err != nil {
		return err
	}
	wait, err := d.doors.Open(ctx, doors)
	if err != nil {
		return err
	}
	// What is to run again takes its time to start, and nobody waits for it but
	// the next session. If it does not start, that is for the administrator.
	d.opening.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), openLimit)
		defer cancel()
		if err := wait(ctx); err != nil {
			d.log.Error("a door of the node stays closed", zap.Error(err))
		}
	})
	return nil
}

// openLimit bounds how long units may take to start again.
const openLimit = time.Minute

// wait waits for all of a group, or for the end of ctx.
func wait(ctx context.Context, all *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// viewSpec is what the view of a job has before anything is opened.
func (d *Daemon) viewSpec(a *admission) jobview.Spec {
	return jobview.Spec{
		UID: a.user.UID, GID: a.user.GID, Home: a.user.Home, Cwd: a.request.Cwd,
		Hidden: d.policy.HiddenInView(), TmpSize: int64(d.policy.View.TmpSize), Devices: d.policy.View.Devices,
		ScriptPath: a.request.Arguments[0], Script: a.script,
	}
}

func (d *Daemon) buildView(ctx context.Context, l *live, a *admission) (err error) {
	spec := d.viewSpec(a)
	if mutant.Removed(mutant.VerifiedCopy) {
		spec.ScriptPath = ""
	}
	for i, v := range a.manifest.Volumes {
		spec.Volumes = append(spec.Volumes, jobview.Mount{Source: l.opened[i].Mount, Target: v.Mount})
	}
	if m := a.manifest; m.Image != nil {
		spec.ImagePath, spec.Image = m.ImagePlace(a.request.Cwd), l.imageFile
		if i, inside := m.ImageVolume(); i >= 0 {
			spec.ImageVolume, spec.Image = m.Volumes[i].Mount, inside
		}
	}
	defer l.wipe() // the files are in the view now, or nowhere
	for i, name := range a.manifest.Files {
		spec.Secrets = append(spec.Secrets, jobview.Secret{Name: name, Content: l.secrets.Files[i]})
	}
	if l.stepKey, err = stepproof.NewKey(rand.Reader); err != nil {
		return err
	}
	spec.StepKey = l.stepKey.Bytes
	l.view, err = jobview.Build(ctx, spec)
	// In the end noded must not be the last that has a mount: that waits for the
	// file server.
	l.closeMounts()
	return err
}

// answer is what the plugin gets for an admitted job.
func (d *Daemon) answer(a *admission, v *jobview.View) handoff.Admission {
	env := map[string]string{
		"USER": a.user.Name, "LOGNAME": a.user.Name, "SHELL": "/bin/sh",
		"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "TMPDIR": "/tmp",
		// What scripts cd to. The plugin takes sbatch's own away: it is free text.
		"SLURM_SUBMIT_DIR": a.request.Cwd,
	}
	maps.Copy(env, a.arrayVariables())
	maps.Copy(env, a.manifest.Environment)
	out := handoff.Admission{
		Home: a.user.Home, Cwd: a.request.Cwd, MountNS: v.Mount, IPCNS: v.IPC,
		Stdout: a.stdout, Stderr: a.stderr,
		Messages: []string{"running in a secure session; output goes to " + a.stdout + " in the volume"},
	}
	for name, value := range env {
		out.Env = append(out.Env, name+"="+value)
	}
	return out
}

// checkAnswer refuses a job whose answer the plugin would not take, while its
// token is unused.
func (d *Daemon) checkAnswer(a *admission) error {
	out := d.answer(a, &jobview.View{})
	if err := out.Check(); err != nil {
		return refusal("the job cannot be launched: "+err.Error(), "submit from a directory with a shorter path and no control character in it, or seal the script with fewer or shorter variables")
	}
	return nil
}

func (d *Daemon) path(name string) string { return filepath.Join(d.runDir, name) }

func (l *live) wipe() {
	if l.secrets != nil {
		l.secrets.Wipe()
	}
}

func (l *live) closeMounts() {
	for _, o := range l.opened {
		l.closing.begin(o.Mount)
	}
	l.opened = nil
}

// dropView lets go of the namespaces, systemd's copies included: while one
// descriptor is open, the volumes in them are in use.
//
// Who lets go last has the kernel store what the job wrote and did not sync, and
// waits for it: that is systemd, which does so beside everything else. Namespaces
// that it was not given yet noded lets go last, and the undo of unlock waits.
func (d *Daemon) dropView(ctx context.Context, l *live) (err error) {
	l.stepKey.Wipe()
	if l.view != nil {
		l.closing.begin(l.view.Mount, l.view.IPC)
		l.view = nil
	}
	grace, cancel := context.WithTimeout(ctx, closingGrace)
	defer cancel()
	_ = l.closing.wait(grace)
	for _, name := range []string{keptMount, keptIPC, keptStepKey} {
		err = errors.Join(err, d.systemd.Forget(name))
	}
	return err
}
