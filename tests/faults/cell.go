package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloister/tests/canary"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
	"cloister/tests/faults/call"
)

// An Outcome is what one fault at one call led to.
type Outcome struct {
	Call  call.Call  `json:"call"`
	Fault call.Fault `json:"fault"`
	// Fired says what was done, "" if the session did not come by the call.
	Fired string `json:"fired"`
	// Job is how Slurm saw the job end, Fenced that the node was given up until
	// it was told to recover.
	Job    string `json:"job"`
	Fenced bool   `json:"fenced"`
	// Bad lists what was not as it must be.
	Bad     []string `json:"bad,omitempty"`
	Seconds float64  `json:"seconds"`
}

func (o *Outcome) bad(format string, args ...any) {
	o.Bad = append(o.Bad, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (o Outcome) String() string {
	end := "node clean"
	switch {
	case len(o.Bad) > 0:
		end = "BAD: " + strings.Join(o.Bad, "; ")
	case o.Fired == "":
		end = "not reached"
	case o.Fenced:
		end = "node fenced, recovered"
	}
	return fmt.Sprintf("%-11s %s: job %s, %s (%.0f s)", o.Fault, o.Call, o.Job, end, o.Seconds)
}

const (
	// hold is longer than the two minutes that the plugin waits for noded, and so than any deadline of a step.
	hold = 130 * time.Second
	// jobLimit is for a job in a session with a call that hangs, settleLimit for noded to be done after it.
	jobLimit    = 8 * time.Minute
	settleLimit = 3 * time.Minute
)

// job copies its input to its output, has an image and a secret file, and
// leaves a process behind.
func job(results string) string {
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

// seal makes a job of a new name.
func (b *Bench) seal(ctx context.Context) (name string, err error) {
	b.jobs++
	name = fmt.Sprintf("job-%04d", b.jobs) // the tracer leaves longer numbers out of names
	if err := b.site.Write(who, name+".sh", job(name+".luks")); err != nil {
		return "", err
	}
	secrets, err := b.sealer.Seal(ctx, name)
	if err != nil {
		return "", err
	}
	keys, err := canary.VolumeKeys(b.site, name+".luks")
	if err != nil {
		return "", err
	}
	b.secrets = append(append(b.secrets, secrets...), keys...)
	return name, nil
}

// Calls runs a session without a fault and lists its calls.
func (b *Bench) Calls(ctx context.Context) ([]call.Call, error) {
	o, trace, err := b.try(ctx, call.Orders{})
	if err != nil {
		return nil, err
	}
	if len(o.Bad) > 0 || o.Job != "COMPLETED" {
		return nil, fmt.Errorf("a session without any fault: %v", o)
	}
	return trace.Calls, nil
}

// Try has one fault happen at one call. An error says that nothing was shown;
// after it, and after a bad outcome, the bench is of no more use.
func (b *Bench) Try(ctx context.Context, c call.Call, f call.Fault) (Outcome, error) {
	began := time.Now()
	o, _, err := b.try(ctx, call.Orders{Call: c, Fault: f, Hold: hold})
	o.Seconds = time.Since(began).Seconds()
	return o, err
}

func (b *Bench) try(ctx context.Context, orders call.Orders) (o Outcome, trace call.Trace, err error) {
	o = Outcome{Call: orders.Call, Fault: orders.Fault}
	kept := len(b.secrets)
	defer func() { b.secrets = b.secrets[:kept] }()
	name, err := b.seal(ctx)
	if err != nil {
		return o, trace, err
	}
	next, err := b.seal(ctx)
	if err != nil {
		return o, trace, err
	}
	if err := b.arm(ctx, orders); err != nil {
		return o, trace, err
	}
	id, err := b.site.Submit(ctx, who, "--secure "+name+".sealed")
	if err != nil {
		return o, trace, err
	}
	if err := b.ended(ctx, id, &o); err != nil {
		return o, trace, err
	}
	if trace, err = b.settled(ctx, &o); err != nil {
		return o, trace, err
	}
	o.Fired = trace.Fired
	if err := b.look.Freeze(ctx); err != nil {
		return o, trace, err
	}
	searched := make(chan error, 1)
	var table strings.Builder
	go func() { searched <- b.look.Search(ctx, b.secrets, &table) }()
	if o.Job == "COMPLETED" {
		read, err := b.site.Results(ctx, who, name+".luks", "out.txt")
		if err != nil || read != b.word+"\n" {
			o.bad("the job's result is %q (%v)", read, err)
		}
	}
	if o.Fenced {
		if err := b.recover(ctx, &o); err != nil {
			return o, trace, err
		}
	}
	if len(o.Bad) == 0 && orders.Fault != call.None {
		if err := b.another(ctx, next, &o); err != nil {
			return o, trace, err
		}
	}
	if err := <-searched; err != nil {
		_, hits, _ := strings.Cut(strings.TrimLeft(table.String(), "\n"), "\n\n")
		o.bad("%v (%s)", err, strings.ReplaceAll(strings.TrimSpace(hits), "\n", ", "))
	}
	return o, trace, nil
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

func (b *Bench) traced(ctx context.Context) (t call.Trace, err error) {
	out, err := b.site.Output(ctx, node, tracerPath+" calls")
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(out), &t); err != nil {
		return t, fmt.Errorf("the tracer's answer: %w", err)
	}
	if t.Lost != "" {
		return t, errors.New("the tracer lost sight of noded: " + t.Lost)
	}
	return t, nil
}

// ended waits until Slurm says that the job is over.
func (b *Bench) ended(ctx context.Context, id uint32, o *Outcome) error {
	for deadline := time.Now().Add(jobLimit); ; {
		e, err := b.site.Look(ctx, id)
		if err != nil {
			return err
		}
		o.Job = e.State
		switch e.State {
		case "COMPLETED", "CANCELLED":
			return nil
		case "FAILED":
			said, err := b.site.Output(ctx, cluster.Head, fmt.Sprintf("cat %s/slurm-%d.out", deploy.Home(who), id))
			if !strings.Contains(said, "cloister") {
				o.bad("the job failed, and its output file says nothing of why: %q (%v)", said, err)
			}
			return nil
		case "PENDING", "RUNNING", "COMPLETING", "CONFIGURING":
		default:
			o.bad("the job is %s", e.State)
			return nil
		}
		if time.Now().After(deadline) {
			o.bad("the job is still %s", e.State)
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
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
		over, fenced, said, err := b.state(ctx)
		if err != nil {
			return err
		}
		if over && !fenced {
			return nil
		}
		if time.Now().After(deadline) {
			o.bad("after cloister node recover: %s", said)
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// another runs a job on a node that says that it is in service.
func (b *Bench) another(ctx context.Context, name string, o *Outcome) error {
	id, err := b.site.Submit(ctx, who, "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	var after Outcome
	if err := b.ended(ctx, id, &after); err != nil {
		return err
	}
	if _, err := b.settled(ctx, &after); err != nil {
		return err
	}
	if after.Job != "COMPLETED" || after.Fenced || len(after.Bad) > 0 {
		o.bad("the next job is %s, fenced %v, %s", after.Job, after.Fenced, strings.Join(after.Bad, "; "))
	}
	return nil
}
