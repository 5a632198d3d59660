package soak

import (
	"context"
	"strings"
	"time"

	"cloister/tests/cluster"
)

// neighbour is where a lane's ordinary jobs run: a dedicated node takes none.
var neighbour = map[string]string{cluster.S1: "-p batch -w n1", cluster.S2: "-p secure -w s2"}

// ordinary runs a job that Cloister is to leave alone.
func (l *lane) ordinary(ctx context.Context) error {
	began := time.Now()
	var job uint32
	for deadline := began.Add(patience); ; {
		var err error
		if job, err = l.Submit(ctx, l.who, neighbour[l.node]+" --wrap 'srun echo ordinary'"); err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	e, err := l.ended(ctx, job)
	if err != nil {
		return err
	}
	l.say("ordinary job %d is %s", job, e.State)
	if (e.State != "COMPLETED" || !strings.Contains(e.Output, "ordinary\n")) && !l.shaken(began) {
		l.fault("ordinary job %d is %s %s: %q", job, e.State, e.ExitCode, strings.TrimSpace(e.Output))
	}
	l.ordinaries++
	return nil
}
