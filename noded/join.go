package noded

import (
	"errors"
	"fmt"
	"sync"

	"cloister/mutant"
	"cloister/noded/account"
	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/stepproof"
	"cloister/sealed"

	"go.uber.org/zap"
)

// A door lets steps into a session, from the start of its script until its end
// begins.
type door struct {
	mu   sync.Mutex
	open bool
}

// unlock opens the door. A session that a noded without steps began has no
// key, and stays shut.
func (l *live) unlock() {
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	l.door.open = l.view != nil && l.stepKey.Len() > 0
}

// shut waits for a step that is on the threshold; none follows it.
func (l *live) shut() {
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	l.door.open = false
}

const nextStep = "start steps with srun from within the sealed script, and leave out options that change the program, its environment or its directory on the way (--export, --chdir, --bcast)"

// join answers a step of the job that has the node: let into the session if
// it proves that it was started there.
func (d *Daemon) join(c *handoff.Conn, l *live, log *zap.Logger) {
	cwd, err := d.letIn(c, l)
	if err == nil {
		d.noteJoined(c, l, cwd)
		return
	}
	var known *sealed.Refusal
	if errors.As(err, &known) {
		e := asked("", &c.Request)
		if r, _ := d.begun(l); r != nil {
			e.Session, e.User = r.ID, r.User
		}
		d.noteIncident(audit.StepRefused, e, err.Error())
	}
	d.refuse(c, l, log, "admit", err)
}

// letIn checks the step and hands the view to its slurmstepd, with the door
// held: a session that ends meanwhile waits, and then ends this step too.
func (d *Daemon) letIn(c *handoff.Conn, l *live) (cwd string, err error) {
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	if !l.door.open {
		return "", refusal("the secure job takes no steps now", "start steps from within the sealed script, while it runs")
	}
	claim, err := d.proven(&c.Request, l)
	if err != nil {
		return "", err
	}
	if claim == nil { // only with the defence taken out
		return "/", c.Join("/", l.view.Mount, l.view.IPC)
	}
	if !l.record.Steps.Add(claim.Step) {
		return "", refusal("this step's proof was used before", nextStep)
	}
	// Before the answer: a noded that is killed now must not take it again.
	if err := d.journal.Save(l.record); err != nil {
		return "", err
	}
	return claim.Cwd, c.Join(claim.Cwd, l.view.Mount, l.view.IPC)
}

// proven returns the step's claim, or why it is none of this session's.
func (d *Daemon) proven(r *handoff.Request, l *live) (*stepproof.Claim, error) {
	if mutant.Removed(mutant.StepProof) {
		return nil, nil
	}
	if r.UID != l.record.UID {
		return nil, refusal("the step is not of the job's owner", nextStep)
	}
	// As the node's database had her when the job was admitted: a directory server
	// is out of reach now.
	owner := account.Account{GID: l.record.GID, Groups: l.record.Groups, Name: l.record.User}
	if err := owner.Check(r.GID, r.Groups); err != nil && !mutant.Removed(mutant.OwnUserDatabase) {
		return nil, refusal(err.Error(), nextAdministrator)
	}
	if r.Proof == "" {
		return nil, refusal("the step does not prove that it was started inside the secure job", nextStep)
	}
	claim, err := stepproof.Read(r.Claim)
	if err != nil {
		return nil, err
	}
	if err := l.stepKey.Check(claim, r.Proof); errors.Is(err, stepproof.ErrProof) {
		return nil, refusal("the step is not the one that was started inside the secure job", nextStep)
	} else if err != nil {
		return nil, err
	}
	if claim.Job != r.Job || claim.Step != r.Step || claim.UID != r.UID || claim.Nodes != r.Nodes {
		return nil, refusal(fmt.Sprintf("the proof is of step %d.%d", claim.Job, claim.Step), nextStep)
	}
	if claim.Nodes != 1 {
		return nil, refusal("a step of several nodes", "run it on the node of the job alone")
	}
	if claim.Tasks != r.Tasks {
		return nil, refusal(fmt.Sprintf("a step of %d tasks was started, and this one has %d", claim.Tasks, r.Tasks), nextStep)
	}
	return claim, nil
}
