package noded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"cloister/kms"
	"cloister/mutant"
	"cloister/noded/account"
	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/userfile"
	"cloister/policy"
	"cloister/sealed"
	"cloister/sealed/signers"
	"cloister/secret"

	"go.uber.org/zap"
)

// An admission is a sealed job that was verified and may run here. Its files
// are open; its keys are not known yet.
type admission struct {
	request *handoff.Request
	// whole is the manifest as it was signed, manifest that of this run.
	whole, manifest *sealed.Manifest
	run             sealed.Run

	script   []byte
	user     account.Account
	volumes  []*os.File // in the manifest's order; nil for one to be made
	image    *os.File   // nil without one
	question question
	// claimed gets the outcome of recording the run, once its key is here.
	claimed chan error
	// stdout and stderr are files in the job view, their patterns filled in.
	stdout, stderr string
}

// id names the run in the node's memory and journal.
func (a *admission) id() string { return a.run.ID(a.manifest.Job) }

// A question is what is on disk about asking the key server for a job's key.
type question struct {
	noted  chan error // gets the outcome of noting it, nil before that began
	before bool       // it was asked before
	put    bool       // it may have reached the key server
	spare  bool       // so may the spare token
}

// noteQuestion begins to note that the key server will be asked, which must be on disk
// before it is: the disk takes as long as the locking of the node beside it.
func (d *Daemon) noteQuestion(a *admission) {
	a.question.noted = make(chan error, 1)
	go func() {
		before, err := d.replay.Asked(a.id(), a.manifest.Expires)
		a.question.before = before
		a.question.noted <- err
		close(a.question.noted)
	}()
}

// takeBackQuestion takes that back if the question was not put.
func (d *Daemon) takeBackQuestion(a *admission) error {
	if a == nil || a.question.noted == nil || a.question.put {
		return nil
	}
	<-a.question.noted
	if a.question.before {
		return nil
	}
	return d.replay.NotAsked(a.id())
}

func (a *admission) rights() userfile.User { return rightsOf(a.user) }

func rightsOf(u account.Account) userfile.User {
	return userfile.User{UID: u.UID, GID: u.GID, Groups: u.Groups}
}

// admit decides whether the job of a launch may run. It changes nothing.
func (d *Daemon) admit(ctx context.Context, r *handoff.Request, t *laps) (_ *admission, err error) {
	a := &admission{request: r, claimed: make(chan error, 1)}
	if a.user, err = account.Lookup(r.UID); err != nil {
		return nil, refusal(err.Error(), "ask the administrator to add you to the secure nodes")
	}
	if err := a.user.Check(r.GID, r.Groups); err != nil && !mutant.Removed(mutant.OwnUserDatabase) {
		return nil, refusal(err.Error(), nextAdministrator)
	}
	if err := d.verify(a); err != nil {
		return nil, err
	}
	if err := d.chooseRun(ctx, a); err != nil {
		return nil, err
	}
	if a.stdout, err = d.output(a.manifest.Stdout, a); err != nil {
		return nil, err
	}
	if a.stderr, err = d.output(a.manifest.Stderr, a); err != nil {
		return nil, err
	}
	if err := d.checkAnswer(a); err != nil {
		return nil, err
	}
	seen, err := d.replay.Seen(a.id())
	if err != nil {
		return nil, err
	}
	if seen && !mutant.Removed(mutant.SingleUse) {
		d.noteIncident(audit.Replayed, a.about(), "")
		return nil, a.ranBefore()
	}
	t.end("verify")
	if err := d.openFiles(ctx, a); err != nil {
		a.close()
		return nil, err
	}
	t.end("files")
	return a, nil
}

// verify checks signature, binding, place, time and policy, in that order:
// nothing of the file is believed before its signature is.
func (d *Daemon) verify(a *admission) error {
	file, err := readScript(a.request.Script)
	if err != nil {
		return err
	}
	env, err := sealed.Parse(file)
	if err != nil {
		return err
	}
	now := time.Now()
	list, err := d.signers()
	if err != nil {
		return err
	}
	signer, err := env.Verify(list, now)
	if err != nil {
		return err
	}
	if a.whole, a.script, err = env.Decrypt(d.identities...); err != nil {
		return err
	}
	if err := sealed.CheckBinding(a.whole, signer, a.user.Name); err != nil {
		return err
	}
	if len(a.request.Arguments) == 0 {
		return errors.New("the launch names no script")
	}
	return d.policy.Admit(a.whole, policy.Facts{
		Now:       now,
		Nodes:     a.request.Nodes,
		Arguments: a.request.Arguments[1:],
	})
}

// readScript reads the spooled script from the descriptor that the plugin
// opened. Its owner can rewrite the file at any time: what is read here is what
// is verified and what runs.
func readScript(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, sealed.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the spooled script: %w", err)
	}
	return b, nil
}

// signers reads the list at each job, so that an administrator's change counts
// at once.
func (d *Daemon) signers() (*signers.List, error) {
	b, err := os.ReadFile(d.policy.AllowedSigners)
	if err != nil {
		return nil, fmt.Errorf("reading the list of signers: %w", err)
	}
	list, err := signers.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading the list of signers: %w", err)
	}
	return list, nil
}

// openFiles opens what the job names with the user's own rights, and looks whether
// what is to be made once the node is locked can be: the job's token is used then.
func (d *Daemon) openFiles(ctx context.Context, a *admission) error {
	a.volumes = make([]*os.File, len(a.manifest.Volumes))
	var files []userfile.File
	var names []string   // what each is, for messages
	var into []**os.File // where each goes
	want := func(what, path string, mode userfile.Mode, to **os.File) {
		files, names, into = append(files, userfile.File{Path: path, Mode: mode}), append(names, what+" "+path), append(into, to)
	}
	for i, v := range a.manifest.Volumes {
		mode := userfile.ReadOnly
		switch {
		case v.Create:
			mode = userfile.New
		case v.Mode == sealed.ReadWrite:
			mode = userfile.ReadWrite
		}
		want("volume", v.Path, mode, &a.volumes[i])
	}
	if i, _ := a.manifest.ImageVolume(); a.manifest.Image != nil && i < 0 {
		want("image", a.manifest.Image.Path, userfile.ReadOnly, &a.image)
	}
	opened, err := userfile.OpenAll(ctx, a.rights(), d.policy.Volumes.Roots, a.request.Cwd, files)
	var which *userfile.FileError
	switch {
	case errors.As(err, &which) && files[which.Index].Mode == userfile.New:
		return refusal(fmt.Sprintf("%s: %v", names[which.Index], err), nextMade(err, "submit again, or seal the script again if it ran before"))
	case errors.As(err, &which):
		return refusal(fmt.Sprintf("%s: %v", names[which.Index], err), nextFile(err))
	case err != nil:
		return refusal(err.Error(), nextFile(err))
	}
	for i, f := range opened {
		*into[i] = f
	}
	return nil
}

func nextFile(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "put the file where the job names it, relative to the directory you submit from, and submit again"
	case errors.Is(err, os.ErrPermission):
		return "give yourself the right to open the file and submit again"
	}
	return "check the file and submit again"
}

// nextMade is for a volume that the job makes.
func nextMade(err error, then string) string {
	switch {
	case errors.Is(err, os.ErrExist):
		return "the job makes this volume anew: move the old file away and " + then
	case errors.Is(err, os.ErrNotExist):
		return "make the directory in which the job makes this volume and " + then
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return "give yourself the right to write where the job makes this volume and " + then
	}
	return "check the place where the job makes this volume and " + then
}

func (a *admission) close() {
	for _, f := range a.volumes {
		if f != nil {
			f.Close()
		}
	}
	if a.image != nil {
		a.image.Close()
	}
}

// redeem gets the job key, once, and opens the manifest's secrets with it.
func (d *Daemon) redeem(ctx context.Context, a *admission) (*sealed.Secrets, error) {
	m := a.manifest
	if err := <-a.question.noted; err != nil {
		return nil, err
	}
	askedBefore := a.question.before
	a.question.put = true
	key, err := d.exchange(ctx, m.Tokens[0])
	if errors.Is(err, kms.ErrUsed) && askedBefore {
		// This node asked and never saw the answer: that is what the spare is for.
		d.log.Warn("an answer of the KMS was lost, using the spare token", zap.String("run", a.id()))
		a.question.spare = true
		key, err = d.exchange(ctx, m.Spare)
	}
	if err != nil {
		return nil, d.redemptionFailed(a, askedBefore, err)
	}
	defer key.Wipe()
	// Beside the opening of the volumes, which must not be over before: the disk
	// takes its time.
	go func() {
		if mutant.Removed(mutant.SingleUse) {
			a.claimed <- nil
			return
		}
		a.claimed <- d.replay.Claim(a.id(), m.Expires)
	}()
	secrets, err := m.OpenSecrets(key)
	if err != nil {
		return nil, err
	}
	if err := a.whole.RunSecrets(secrets, a.run); err != nil {
		secrets.Wipe()
		return nil, err
	}
	return secrets, nil
}

func (d *Daemon) redemptionFailed(a *admission, askedBefore bool, err error) error {
	if !kms.MaybeSpent(err) && !askedBefore {
		if undo := d.replay.NotAsked(a.id()); undo != nil {
			return errors.Join(err, undo)
		}
	}
	if errors.Is(err, kms.ErrUsed) || errors.Is(err, kms.ErrForeign) {
		d.noteIncident(audit.TokenUsed, a.about(), "")
		return refusal("the job's single-use token is gone: this sealed job ran before, or somebody took the token", "if you did not submit it before, tell your security officer; then seal the script again")
	}
	return refusal(err.Error(), strings.TrimSuffix(d.kmsHint(a.question, askedBefore, err), "."))
}

// kmsHint says what the researcher does; kms.Hint speaks to whoever holds the
// site file. Only the node that asked may ask for the spare token: to another the
// job's own would be one that somebody took.
func (d *Daemon) kmsHint(q question, askedBefore bool, err error) string {
	switch {
	case !errors.Is(err, kms.ErrUnreachable):
		return kms.Hint(err)
	case kms.MaybeSpent(err) && q.spare:
		return nextSealAgain
	case kms.MaybeSpent(err) || askedBefore:
		return "when the key server is back, submit the same sealed job to this node again (--nodelist=" + d.node + "), or seal the script again: its key may be taken already"
	}
	return "nothing was used up: submit the same sealed job again when the key server is back"
}

func (d *Daemon) exchange(ctx context.Context, token string) (secret.Bytes, error) {
	t := secret.New([]byte(token))
	defer t.Wipe()
	return d.kms.Redeem(ctx, t)
}

// refusal is what the user reads in the job's output file.
func refusal(cause, next string) error { return &sealed.Refusal{Cause: cause, Next: next} }

const (
	nextSealAgain     = "seal the script again and submit the new file"
	nextAdministrator = "ask the cluster's administrator"
)
