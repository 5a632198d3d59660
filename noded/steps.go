package noded

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"cloister/mutant"
	"cloister/noded/handoff"
	"cloister/noded/jobview"
	"cloister/noded/keyring"
	"cloister/noded/lockdown"
	"cloister/noded/session"
	"cloister/noded/stepproof"
	"cloister/noded/unlock"
	"cloister/noded/userfile"
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
	record   *session.Record

	imageFile string // the verified copy, "" without one
	secrets   *sealed.Secrets
	opened    []*unlock.Opened
	view      *jobview.View
	stepKey   stepproof.Key
	door      door

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
	return []session.Step{
		{
			Name: stepImage,
			Do:   func(context.Context, session.Saver) error { return d.takeImage(dir, l, a) },
			Undo: func(context.Context) error { return removeScratch(dir) },
		},
		{
			Name: stepLock,
			Do:   func(ctx context.Context, save session.Saver) error { return d.lockNode(ctx, l, save) },
			Undo: func(ctx context.Context) error { return d.openNode(ctx, l) },
		},
		{
			Name: stepKeys,
			Do: func(ctx context.Context, _ session.Saver) (err error) {
				l.secrets, err = d.redeem(ctx, a)
				return err
			},
			Undo: func(context.Context) error { l.wipe(); return nil },
		},
		{
			Name: stepUnlock,
			Do: func(ctx context.Context, _ session.Saver) error {
				defer l.wipe() // the kernel has the keys now, or nobody
				return d.openVolumes(ctx, l, a)
			},
			Undo: func(ctx context.Context) error {
				l.closeMounts()
				return unlock.Close(ctx, l.record.ID)
			},
		},
		{
			Name: stepView,
			Do:   func(ctx context.Context, _ session.Saver) error { return d.buildView(ctx, l, a) },
			Undo: func(context.Context) error { d.dropView(l); return nil },
		},
		{
			// Last begun, first undone: nothing of the job is left before
			// anything else is taken back.
			Name: stepRun,
			Do:   func(context.Context, session.Saver) error { return nil },
			Undo: func(ctx context.Context) error {
				if err := l.record.Cgroup.Kill(ctx); err != nil {
					return err
				}
				return errors.Join(l.record.Cgroup.EndSteps(ctx), keyring.Wipe(ctx, l.record.UID, l.record.GID))
			},
		},
	}
}

// lockNode closes the network and the doors, and ends what others run here.
func (d *Daemon) lockNode(ctx context.Context, l *live, save session.Saver) error {
	doors, err := d.doors.Survey(ctx)
	if err != nil {
		return err
	}
	if l.record.Doors, err = json.Marshal(doors); err != nil {
		return fmt.Errorf("recording the doors: %w", err)
	}
	if err := save(); err != nil {
		return err
	}
	if err := d.lockNetwork(ctx, d.lock.InSession()); err != nil {
		return err
	}
	if err := d.doors.Close(ctx, doors); err != nil {
		return err
	}
	ended, err := lockdown.EndForeign(ctx, l.record.UID, l.record.Cgroup.Path())
	for _, p := range ended {
		d.log.Info("ended a process that does not belong to the job", zap.Stringer("process", p))
	}
	if err != nil {
		return err
	}
	if exposed, err := d.filter.Exposed(ctx, d.lock.InSession()); err != nil {
		return err
	} else if len(exposed) > 0 {
		return refusal(fmt.Sprintf("something listens at %v on this node, a port that its packet filter leaves to srun", exposed), nextAdministrator)
	}
	d.watchLocked(ctx)
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
	return errors.Join(d.openNetwork(ctx), d.doors.Open(ctx, doors))
}

// openVolumes makes the results volumes and opens all of them, side by side:
// most of the time goes into waiting for the kernel and udev. If one fails,
// those that were made are removed again, for they are empty.
func (d *Daemon) openVolumes(ctx context.Context, l *live, a *admission) error {
	n := len(a.manifest.Volumes)
	opened, failed := make([]*unlock.Opened, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { opened[i], failed[i] = d.openVolume(ctx, l, a, i) })
	}
	all.Wait()
	for _, o := range opened {
		if o != nil {
			l.opened = append(l.opened, o)
		}
	}
	i := slices.IndexFunc(failed, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	l.closeMounts()
	err := unlock.Close(ctx, l.record.ID)
	for i, v := range a.manifest.Volumes {
		if v.Create && a.volumes[i] != nil {
			err = errors.Join(err, userfile.Remove(ctx, a.rights(), d.policy.Volumes.Roots, a.request.Cwd, v.Path, a.volumes[i]))
		}
	}
	if err != nil {
		d.log.Warn("taking back volumes that were made", zap.Error(err))
	}
	return failed[i]
}

func (d *Daemon) openVolume(ctx context.Context, l *live, a *admission, i int) (*unlock.Opened, error) {
	v, keys := a.manifest.Volumes[i], l.secrets.Volumes[i]
	if v.Create {
		f, err := userfile.Create(ctx, a.rights(), d.policy.Volumes.Roots, a.request.Cwd, v.Path, v.Pinned.PayloadOffset+v.Pinned.PayloadSize)
		if err != nil {
			return nil, refusal(fmt.Sprintf("making volume %s: %v", v.Path, err), nextFile(err))
		}
		a.volumes[i] = f
	}
	o, err := unlock.Open(ctx, l.record.ID, unlock.Volume{
		Index: i, File: a.volumes[i], Pinned: v.Pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey,
		ReadOnly: v.Mode == sealed.ReadOnly, Create: v.Create, Label: v.Label, UID: a.user.UID, GID: a.user.GID,
	})
	if err != nil {
		return nil, refusal(fmt.Sprintf("volume %s: %v", v.Path, err), "check that this is the file that the job was sealed with, unchanged, and seal the script again")
	}
	return o, nil
}

func (d *Daemon) buildView(ctx context.Context, l *live, a *admission) (err error) {
	spec := jobview.Spec{
		UID: a.user.UID, GID: a.user.GID, Home: a.user.Home, Cwd: a.request.Cwd,
		Hidden: d.policy.View.Hidden, TmpSize: int64(d.policy.View.TmpSize), Devices: d.policy.View.Devices,
		ScriptPath: a.request.Arguments[0], Script: a.script,
	}
	if mutant.Removed(mutant.VerifiedCopy) {
		spec.ScriptPath = ""
	}
	for i, v := range a.manifest.Volumes {
		spec.Volumes = append(spec.Volumes, jobview.Mount{Source: l.opened[i].Mount, Target: v.Mount})
	}
	if m := a.manifest.Image; m != nil {
		target := m.Mount
		if target == "" {
			target = m.Path
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(a.request.Cwd, target)
		}
		spec.ImagePath, spec.Image = target, l.imageFile
	}
	if l.stepKey, err = stepproof.NewKey(rand.Reader); err != nil {
		return err
	}
	spec.StepKey = l.stepKey.Bytes
	l.view, err = jobview.Build(ctx, spec)
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

func (d *Daemon) path(name string) string { return filepath.Join(d.runDir, name) }

func (l *live) wipe() {
	if l.secrets != nil {
		l.secrets.Wipe()
	}
}

func (l *live) closeMounts() {
	for _, o := range l.opened {
		o.Mount.Close()
	}
	l.opened = nil
}

// dropView lets go of the namespaces, systemd's copies included: while one
// descriptor is open, the volumes in them are in use.
func (d *Daemon) dropView(l *live) {
	for _, name := range []string{keptMount, keptIPC, keptStepKey} {
		d.systemd.Forget(name)
	}
	l.stepKey.Wipe()
	if l.view != nil {
		l.view.Close()
		l.view = nil
	}
}
