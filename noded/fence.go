package noded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"cloister/noded/audit"
	"cloister/noded/status"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"
)

// fenceFile is where a fence outlives noded: on tmpfs, for a boot cleans the
// node. What Slurm was told outlives that too.
const fenceFile = "fenced.json"

// drainMark is how noded's reasons in Slurm begin, by which it knows them.
const drainMark = "cloister: "

func (d *Daemon) fence(err error) { d.giveUp("a secure session could not be undone", err) }

// giveUp takes the node out of service: noded launches nothing any more, Slurm
// brings nothing. That lasts until somebody says cloister node recover.
func (d *Daemon) giveUp(reason string, err error) {
	if f := d.outOfService(reason, err); f != nil {
		d.drain(f)
	}
}

// outOfService is giveUp without Slurm, which the caller tells. It returns nil
// if the node was given up before: the first reason counts, and Slurm has it or
// will.
func (d *Daemon) outOfService(reason string, err error) *status.Fence {
	f := &status.Fence{Reason: reason, Detail: err.Error(), Since: time.Now().UTC()}
	d.mu.Lock()
	first := d.fenced == nil
	if first {
		d.fenced = f
	}
	d.mu.Unlock()
	e := d.present()
	e.Event, e.Detail = audit.Fenced, reason+": "+err.Error()
	d.note(e)
	if !first {
		return nil
	}
	if err := d.saveFence(f); err != nil {
		d.log.Error("a noded that is restarted will not know that the node was given up", zap.Error(err))
	}
	d.status()
	return f
}

// drain tells Slurm, or goes on trying to.
func (d *Daemon) drain(f *status.Fence) {
	if d.drainOnce(f) {
		return
	}
	go func() {
		for pause := drainPause; ; pause = min(2*pause, drainPauseMax) {
			time.Sleep(pause)
			if d.givenUp() != f || d.drainOnce(f) {
				return
			}
		}
	}()
}

// drainPause is the time to the second try of telling Slurm; it doubles up to
// drainPauseMax.
var (
	drainPause    = 5 * time.Second
	drainPauseMax = 5 * time.Minute
)

func (d *Daemon) drainOnce(f *status.Fence) bool {
	ctx, cancel := context.WithTimeout(context.Background(), slurmLimit)
	defer cancel()
	if err := d.slurm.Drain(ctx, drainMark+f.Reason+", see cloister node status"); err != nil {
		d.log.Error("draining the node, to be tried again", zap.Error(err))
		return false
	}
	d.mu.Lock()
	f.Drained = true
	d.mu.Unlock()
	return true
}

// givenUp is why the node was given up, nil if it was not.
func (d *Daemon) givenUp() *status.Fence {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fenced
}

func (d *Daemon) saveFence(f *status.Fence) error {
	b, err := json.Marshal(f)
	if err == nil {
		err = renameio.WriteFile(d.path(fenceFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting that the node was given up: %w", err)
	}
	return nil
}

// forgetFence has noded launch again. The note goes first: a noded that is
// restarted must not be fenced while this one is not.
func (d *Daemon) forgetFence() error {
	if err := os.Remove(d.path(fenceFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fenced = nil
	return nil
}

// loadFence finds what a predecessor gave up. A note that cannot be read is
// one that the node was given up.
func (d *Daemon) loadFence() {
	b, err := os.ReadFile(d.path(fenceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	f := new(status.Fence)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		err = dec.Decode(f)
	}
	if err != nil {
		f = &status.Fence{Reason: "a note that the node was given up cannot be read", Detail: err.Error(), Since: time.Now().UTC()}
	}
	f.Drained = false // to be told again: somebody may have resumed the node
	d.mu.Lock()
	d.fenced = f
	d.mu.Unlock()
	d.log.Error("the node was given up before noded started, and stays so", zap.String("reason", f.Reason))
	go d.drain(f) // Slurm need not be up before noded
}

// slurmLimit bounds a call to Slurm, whose clients try for minutes.
const slurmLimit = 30 * time.Second
