package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloister/tests/canary"
	"cloister/tests/canary/search"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
	"cloister/tests/faults/call"
)

// An Outcome is what one fault at one call led to.
type Outcome struct {
	Call  call.Call  `json:"call"`
	Fault call.Fault `json:"fault"`
	// Build is the noded that it happened to.
	Build string `json:"build"`
	// Fired says what was done, "" if the session did not come by the call.
	Fired string `json:"fired"`
	// Job is how Slurm saw the job end, Fenced that the node was given up until
	// it was told to recover.
	Job    string `json:"job"`
	Fenced bool   `json:"fenced"`
	// Bad lists what was not as it must be.
	Bad     []string `json:"bad,omitempty"`
	Seconds float64  `json:"seconds"`
	// Laps says what they went into.
	Laps string `json:"laps"`
}

func (o *Outcome) bad(format string, args ...any) {
	o.Bad = append(o.Bad, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (o Outcome) String() string {
	what, end := fmt.Sprintf("%-11s %s", o.Fault, o.Call), "node clean"
	if o.Fault == call.None {
		what = "no fault"
	}
	switch {
	case len(o.Bad) > 0:
		end = "BAD: " + strings.Join(o.Bad, "; ")
	case o.Fault != call.None && o.Fired == "":
		end = "not reached"
	case o.Fenced:
		end = "node fenced, recovered"
	}
	return fmt.Sprintf("%s: job %s, %s (%.0f s: %s)", what, o.Job, end, o.Seconds, o.Laps)
}

const (
	// hold is longer than the two minutes that the plugin waits for noded, and so than any deadline of a step.
	hold = 130 * time.Second
	// quiet is how long noded must have been done without a call that is held before it is let go.
	quiet = 5 * time.Second
	// jobLimit is for a job in a session with a call that hangs, settleLimit for noded to be done after it.
	jobLimit    = 8 * time.Minute
	settleLimit = 3 * time.Minute
)

// script copies the job's input to its output, has an image and a secret file,
// and leaves a process behind.
func script(results string) string {
	return `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=` + node + `
#SBATCH --time=15
#CLOISTER class=on-demand
#CLOISTER volume=` + inputs + `:/data:ro
#CLOISTER volume=` + results + `:/results:rw,create,size=32M
#CLOISTER image=` + imageFile + `
#CLOISTER secret=pem:` + keyFile + `
#CLOISTER output=/results/out.txt
setsid sleep 1000 </dev/null >/dev/null 2>&1 &
cat /data/secret.txt
`
}

// A job is sealed and not submitted yet.
type job struct {
	name    string
	secrets []search.Needle
	err     error
}

// sealAhead seals the next session's job while the present one goes on.
func (b *Bench) sealAhead(ctx context.Context) {
	b.jobs++
	name := fmt.Sprintf("job-%04d", b.jobs) // the tracer leaves longer numbers out of names
	sealed := make(chan job, 1)
	b.ahead = sealed
	go func() {
		secrets, err := b.seal(ctx, name)
		sealed <- job{name, secrets, err}
	}()
}

func (b *Bench) seal(ctx context.Context, name string) ([]search.Needle, error) {
	if err := b.site.Write(who, name+".sh", script(name+".luks")); err != nil {
		return nil, err
	}
	secrets, err := b.sealer.Seal(ctx, name)
	if err != nil {
		return nil, err
	}
	keys, err := canary.VolumeKeys(b.site, name+".luks")
	return append(secrets, keys...), err
}

// Calls runs a session without a fault and lists its calls.
func (b *Bench) Calls(ctx context.Context) ([]call.Call, error) {
	found, err := b.Group(ctx, nil)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return nil, fmt.Errorf("a session without any fault: %v", found[0])
	}
	return b.calls, nil
}

// Group has faults happen, each in a session of its own, one after another on the
// same node, and then runs a job without any. It ends at the first outcome that
// is bad. If the last job is not as it must be, its outcome is added. After
// anything bad, and after an error, nothing is shown of the others, and the bench
// is of no more use.
func (b *Bench) Group(ctx context.Context, cells []Cell) (found []Outcome, err error) {
	var before *session
	for _, c := range append(cells[:len(cells):len(cells)], Cell{}) {
		s := &session{o: Outcome{Call: c.Call, Fault: c.Fault, Build: b.build}, checked: make(chan struct{})}
		ill, err := b.run(ctx, s, before)
		if before != nil {
			<-before.checked
			b.log("%v", before.o)
			found = append(found, before.o)
			if err := errors.Join(err, before.err); err != nil || len(before.o.Bad) > 0 {
				return found, err
			}
		}
		if err != nil {
			return found, err
		}
		if before = s; ill {
			break
		}
	}
	<-before.checked
	b.log("%v", before.o)
	if o := &before.o; o.Fault == call.None && (o.Job != "COMPLETED" || o.Fenced) {
		o.bad("the job is %s, the node fenced: %v", o.Job, o.Fenced)
	}
	if before.o.Fault != call.None || len(before.o.Bad) > 0 {
		found = append(found, before.o)
	}
	return found, before.err
}

// Alone is the outcome of the one fault of a group, with what was bad of the job
// after it.
func Alone(found []Outcome) Outcome {
	o := found[0]
	for _, next := range found[1:] {
		o.bad("the next job: %s", strings.Join(next.Bad, "; "))
	}
	return o
}

// A session is one job's, with a fault or without.
type session struct {
	o       Outcome
	err     error
	checked chan struct{} // closed when o and err are whole
}

// run returns when the session is over and its node was looked at, ill if it is
// not as it must be. It goes on searching the node's memory, after that was done
// for the session before.
func (b *Bench) run(ctx context.Context, s *session, before *session) (ill bool, err error) {
	began := time.Now()
	last := began
	lap := func(part string) {
		s.o.Laps += fmt.Sprintf("%s %.1f ", part, time.Since(last).Seconds())
		last = time.Now()
	}
	defer func() {
		if err != nil {
			close(s.checked)
		}
	}()
	job := <-b.ahead
	b.sealAhead(ctx)
	if job.err != nil {
		return false, job.err
	}
	lap("sealed")
	if err := b.arm(ctx, call.Orders{Call: s.o.Call, Fault: s.o.Fault, Hold: hold}); err != nil {
		return false, err
	}
	id, err := b.site.Submit(ctx, who, "--secure "+job.name+".sealed")
	if err != nil {
		return false, err
	}
	lap("submitted")
	if err := b.ended(ctx, id, &s.o); err != nil {
		return false, err
	}
	lap("ended")
	if err := b.settled(ctx, &s.o); err != nil {
		return false, err
	}
	lap("settled")
	if before != nil {
		<-before.checked // its memory is in the same file
	}
	lap("searched")
	if err := b.look.Freeze(ctx); err != nil {
		return false, err
	}
	lap("frozen")
	if s.o.Fault == call.None {
		if b.calls, err = b.traced(ctx); err != nil {
			return false, err
		}
	}
	if s.o.Fenced {
		if err := b.recover(ctx, &s.o); err != nil {
			return false, err
		}
		lap("recovered")
	}
	ill = len(s.o.Bad) > 0
	s.o.Laps = strings.TrimSpace(s.o.Laps)
	s.o.Seconds = time.Since(began).Seconds()
	go func() {
		defer close(s.checked)
		s.err = b.check(ctx, job, &s.o)
	}()
	return ill, nil
}

// check looks for what the job may not have left, and for what it must have.
func (b *Bench) check(ctx context.Context, j job, o *Outcome) error {
	var table strings.Builder
	if err := b.look.Search(ctx, append(j.secrets, b.secrets...), &table); err != nil {
		_, hits, _ := strings.Cut(strings.TrimLeft(table.String(), "\n"), "\n\n")
		o.bad("%v (%s)", err, strings.ReplaceAll(strings.TrimSpace(hits), "\n", ", "))
	}
	there, err := b.site.Run(ctx, cluster.Head, "test -e "+deploy.Home(who)+"/"+j.name+".luks")
	switch {
	case err != nil:
		return err
	case o.Job == "COMPLETED":
		read, err := b.site.Results(ctx, who, j.name+".luks", "out.txt")
		if err != nil || read != b.word+"\n" {
			o.bad("the job's result is %q (%v)", read, err)
		}
	case there.Exit == 0:
		// A volume, though perhaps one that nobody closed.
		if err := b.site.Download(ctx, who, j.name+".luks"); err != nil {
			return err
		}
		if _, err := b.site.Laptop(ctx, who, "volume", "info", j.name+".luks"); err != nil {
			o.bad("what the job left of its results: %v", err)
		}
	}
	return ctx.Err()
}

// arm gives the tracer its orders.
func (b *Bench) arm(ctx context.Context, orders call.Orders) error {
	text, err := json.Marshal(orders)
	if err != nil {
		return err
	}
	_, err = b.site.Output(ctx, node, tracerPath+" arm", cluster.Stdin(text))
	return err
}

func (b *Bench) traced(ctx context.Context) ([]call.Call, error) {
	out, err := b.site.Output(ctx, node, tracerPath+" calls")
	if err != nil {
		return nil, err
	}
	var t call.Trace
	if err := json.Unmarshal([]byte(out), &t); err != nil {
		return nil, fmt.Errorf("the tracer's answer: %w", err)
	}
	return t.Calls, nil
}

// recover does what cloister node status tells an administrator to.
func (b *Bench) recover(ctx context.Context, o *Outcome) error {
	r, err := b.site.Run(ctx, node, "cloister node recover")
	if err != nil {
		return err
	}
	if r.Exit != 0 {
		o.bad("cloister node recover: exit status %d: %s", r.Exit, r.Stdout+r.Stderr)
		return nil
	}
	for deadline := time.Now().Add(settleLimit); ; {
		s, err := b.state(ctx)
		if err != nil {
			return err
		}
		if s.over && !s.fenced {
			return nil
		}
		if time.Now().After(deadline) {
			o.bad("after cloister node recover: %s", s.said)
			return nil
		}
	}
}
