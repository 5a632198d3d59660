package noded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"cloister/noded/account"
	"cloister/noded/audit"
	"cloister/noded/helper"
	"cloister/noded/session"
	"cloister/noded/unlock"
	"cloister/noded/userfile"
	"cloister/sealed"

	"go.uber.org/zap"
)

// openVolumes opens all volumes, side by side: much of the time goes into
// waiting for the file server.
func (d *Daemon) openVolumes(ctx context.Context, l *live, a *admission) error {
	n := len(a.manifest.Volumes)
	opened, failed := make([]*unlock.Opened, n), make([]error, n)
	l.headers = make([]<-chan error, n)
	headers, end := context.WithCancel(context.WithoutCancel(ctx))
	l.endHeaders = end
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { opened[i], l.headers[i], failed[i] = d.openVolume(ctx, headers, l, a, i) })
	}
	all.Wait()
	l.headers = slices.DeleteFunc(l.headers, func(written <-chan error) bool { return written == nil })
	for _, o := range opened {
		if o != nil {
			l.opened = append(l.opened, o)
		}
	}
	d.hold(l, a, opened)
	return cmp.Or(failed...)
}

// takeKeys gets the keys and makes the files of the results volumes meanwhile:
// the one waits for the key server, the other for the file server.
func (d *Daemon) takeKeys(ctx context.Context, l *live, a *admission, save session.Saver) (err error) {
	made := make(chan error, 1)
	go func() { made <- d.makeFiles(ctx, l, a, save) }()
	l.secrets, err = d.redeem(ctx, a)
	return cmp.Or(err, <-made)
}

// makeFiles makes the files of the volumes that are made here, side by side.
func (d *Daemon) makeFiles(ctx context.Context, l *live, a *admission, save session.Saver) error {
	var new []int // the volumes
	for i, v := range a.manifest.Volumes {
		if !v.Create {
			continue
		}
		path := userfile.Absolute(a.request.Cwd, v.Path)
		if len(path) >= userfile.MaxPath { // the journal must be readable again
			return refusal(fmt.Sprintf("the path of a volume to be made has %d bytes", len(path)), "submit from a directory with a shorter path, or name the volume shorter")
		}
		new = append(new, i)
		l.record.Made = append(l.record.Made, userfile.Made{Path: path, Size: v.Pinned.End()})
	}
	if len(new) == 0 {
		return nil
	}
	if err := save(); err != nil {
		return err
	}
	failed := make([]error, len(new))
	var all sync.WaitGroup
	for n, i := range new {
		all.Go(func() { a.volumes[i], failed[n] = d.makeFile(ctx, a, &l.record.Made[n]) })
	}
	all.Wait()
	l.record.Made = slices.DeleteFunc(l.record.Made, func(m userfile.Made) bool { return m.Path == "" })
	return cmp.Or(append(failed, save())...)
}

// makeFile empties m if the name is another file's. After other errors the file
// may be there, or come when its server answers again.
func (d *Daemon) makeFile(ctx context.Context, a *admission, m *userfile.Made) (*os.File, error) {
	f, err := userfile.Create(ctx, a.rights(), d.policy.Volumes.Roots, "", m.Path, m.Size)
	if err != nil {
		refused := refusal(fmt.Sprintf("making volume %s: %v", m.Path, err), nextMade(err, nextSealAgain))
		if errors.Is(err, syscall.EEXIST) {
			*m = userfile.Made{}
		}
		return nil, refused
	}
	return f, m.Note(f)
}

// leaveFiles leaves the files that makeFiles made to the script, which may begin.
func (d *Daemon) leaveFiles(r *session.Record) error {
	made := r.Made
	r.Made = nil
	err := d.journal.Save(r)
	if err != nil {
		r.Made = made
	}
	return err
}

// removeFiles takes back what makeFiles made and leaveFiles did not leave, by this
// noded or a predecessor: nothing of the job's is in the files, which may lack their
// headers yet, and they would be in the way of another try.
func (d *Daemon) removeFiles(ctx context.Context, r *session.Record) {
	if len(r.Made) == 0 {
		return
	}
	user, err := account.Lookup(r.UID)
	if err != nil {
		d.log.Warn("volumes that were made are not taken back", zap.Error(err))
		return
	}
	for _, m := range r.Made {
		if err := userfile.Remove(ctx, rightsOf(user), d.policy.Volumes.Roots, m); err != nil {
			d.log.Warn("a volume that was made is not taken back", zap.String("file", m.Path), zap.Error(err))
		}
	}
}

// openVolume also returns where it is told, of a volume that is made here, what
// became of its header, which is written until headers ends.
func (d *Daemon) openVolume(ctx, headers context.Context, l *live, a *admission, i int) (o *unlock.Opened, header <-chan error, err error) {
	v, keys := a.manifest.Volumes[i], l.secrets.Volumes[i]
	volume := unlock.Volume{
		Index: i, File: a.volumes[i], Pinned: v.Pinned, Key: keys.VolumeKey, KeyslotKey: keys.KeyslotKey,
		ReadOnly: v.Mode == sealed.ReadOnly, Create: v.Create, Label: v.Label, UID: a.user.UID, GID: a.user.GID,
		Job: a.manifest.Job, Known: v.State, Holder: d.holder(l), Crypt: d.policy.Volumes.DMCrypt,
	}
	o, err = unlock.Open(ctx, l.record.ID, volume)
	if said, ok := errors.AsType[*helper.Error](err); ok && errors.Is(err, unlock.ErrInUse) {
		return nil, nil, refusal(fmt.Sprintf("volume %s: %s", v.Path, said.Text), "wait until that has ended, seal the script again and submit it")
	}
	if err == nil && v.Create {
		if header, err = unlock.WriteHeader(headers, volume); err != nil {
			l.closing.begin(o.Mount)
		}
	}
	if err != nil {
		if v.Mode == sealed.ReadOnly && errors.Is(err, syscall.EIO) {
			d.noteIncident(audit.Tampered, l.of(""), err.Error())
		}
		return nil, nil, refusal(fmt.Sprintf("volume %s: %v", v.Path, err), "check that this is the file that the job was sealed with, unchanged, and seal the script again")
	}
	return o, header, nil
}

// awaitHeaders waits until the headers of the volumes that are made here are
// written. The script does not begin without: its results would need a repair
// (cloister volume check --repair) before their owner's cryptsetup opens them.
func (l *live) awaitHeaders(ctx context.Context) error {
	var failed error
	for _, written := range l.headers {
		select {
		case err := <-written:
			failed = cmp.Or(failed, err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if failed != nil {
		return refusal(failed.Error(), nextSealAgain)
	}
	return nil
}

// headersGrace is how long the closing of volumes waits for headers that are
// still being written, and then for the end of who writes them. The rest of a try
// to undo must do for the closing itself, which takes the keys from the kernel
// whatever a file server does.
const headersGrace = 4 * time.Second

func (l *live) stopHeaders(ctx context.Context) {
	for range 2 {
		wait, cancel := context.WithTimeout(ctx, headersGrace)
		_ = l.awaitHeaders(wait)
		cancel()
		if l.endHeaders != nil {
			l.endHeaders()
		}
	}
	l.headers = nil // the next try does not wait again
}
