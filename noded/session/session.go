// Package session runs one secure job's life on a node as pairs of do and
// undo, so that whatever fails or dies, what was done can be undone.
//
// A step is written to the journal before it is done. Its undo must be safe
// when run twice, when its step died half-way, and when the step never came
// to do anything: so after a crash the journal alone is enough.
// The package knows nothing of what the steps do.
package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Step is one change to the node and the way back from it. Both may use and
// change the record; Do must put there what Undo will need before it acts, and
// call the Saver it is given to make that durable.
type Step struct {
	Name string
	Do   func(ctx context.Context, save Saver) error
	Undo func(ctx context.Context) error
}

// A Saver writes the record as it now is to the journal.
type Saver func() error

// undoTries is how often an undo, and the journal's write after it, are tried
// before the node is fenced, and undoPause the time between: a file system needs
// a moment after its last process was killed.
const (
	undoTries = 3
	undoPause = 200 * time.Millisecond
)

// undoLimit bounds one try of one undo.
var undoLimit = 20 * time.Second

// Run does the steps in order. When one fails, everything begun is undone in
// reverse and the step's error is returned, joined with a FenceError if the
// way back failed too.
func Run(ctx context.Context, j *Journal, r *Record, steps []Step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return errors.Join(fmt.Errorf("before step %s: %w", s.Name, context.Cause(ctx)), Undo(j, r, steps))
		}
		r.Begun = append(r.Begun, s.Name)
		if err := j.Save(r); err != nil {
			return errors.Join(err, Undo(j, r, steps))
		}
		if err := s.Do(ctx, func() error { return j.Save(r) }); err != nil {
			return errors.Join(&StepError{Step: s.Name, Err: err}, Undo(j, r, steps))
		}
	}
	return nil
}

// Undo takes back every begun step in reverse and removes the journal entry.
// It goes on after a failure, so that one stuck volume does not leave the
// others open, but only a step whose later steps are all undone may be taken
// back if it guards them: the first steps are the locks, and a session whose
// keys may still be open keeps its locks. It is not cancelled by anybody's
// context: half an undo helps no one.
func Undo(j *Journal, r *Record, steps []Step) error {
	r.Releasing = true
	_ = j.Save(r) // the flag only informs; what matters is in Begun
	var failed []error
	for _, s := range slices.Backward(steps) {
		if !slices.Contains(r.Begun, s.Name) {
			continue
		}
		if len(failed) > 0 && slices.Contains(guards, s.Name) {
			continue
		}
		if err := tryUndo(s); err != nil {
			failed = append(failed, &StepError{Step: s.Name, Err: err})
			continue
		}
		r.Begun = slices.DeleteFunc(r.Begun, func(n string) bool { return n == s.Name })
		if err := tries(func() error { return j.Save(r) }); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return &FenceError{Err: errors.Join(failed...)}
	}
	if err := tries(func() error { return j.Remove(r.ID) }); err != nil {
		return &FenceError{Err: err}
	}
	return nil
}

// Lock is the name of the step whose undo opens the node again.
const Lock = "lock"

// guards are the steps that stay in force while anything later could not be
// undone.
var guards = []string{Lock}

func tryUndo(s Step) error {
	return tries(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
		defer cancel()
		return s.Undo(ctx)
	})
}

func tries(do func() error) (err error) {
	for try := range undoTries {
		if try > 0 {
			time.Sleep(undoPause)
		}
		if err = do(); err == nil {
			return nil
		}
	}
	return err
}

// A StepError names the step that failed.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// A FenceError says that the node could not be cleaned: it must stay locked
// and be drained.
type FenceError struct{ Err error }

func (e *FenceError) Error() string {
	return "the node could not be cleaned and stays locked: " + e.Err.Error()
}
func (e *FenceError) Unwrap() error { return e.Err }
