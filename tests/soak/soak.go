// Package soak runs random secure jobs on both secure nodes of a real cluster
// and has things befall them: cancellations, limits, killed daemons, a file
// server that hangs, reboots, power cuts. After each, the node must be clean or
// fenced and every record that a job had synced must be there; at the end
// nothing may be left over on the nodes or have grown in noded.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// word is what the jobs find in their inputs.
const word = "canary-of-a-patient"

// A Soak is one run.
type Soak struct {
	*deploy.Site
	out   io.Writer
	began time.Time
	lanes []*lane

	shaking sync.Mutex // held by what befalls more than one node

	mu    sync.Mutex
	bad   []string
	shook []time.Time // when something befell the whole cluster, both ends
}

// A lane is a secure node and the user whose jobs it gets.
type lane struct {
	*Soak
	node, who string
	plans     *Plans
	usual     survey
	kept      map[string]record // files in the lane's own volume and what is known of them
	made      bool              // the lane's own volume is there
	open      bool              // and nobody closed it
	samples   []sample
	rested    sample // after the first session, once noded waits for the next
	counts    map[Blow]*count
	fences    []string

	sessions, ordinaries int
}

// A record is how far a job's file of records must and may go.
type record struct{ least, most int }

// A count is what became of the jobs that something befell.
type count struct {
	jobs, records int
	ends          map[string]int
}

// Start returns a soak on a fresh site; For makes it, End ends it.
func Start(ctx context.Context, seed uint64, calm bool, out io.Writer) (*Soak, error) {
	s := &Soak{out: out, began: time.Now()}
	site, err := deploy.Start(ctx, deploy.Release, func(f string, a ...any) { s.say("", f, a...) })
	if err != nil {
		return nil, err
	}
	s.Site = site
	for node, who := range map[string]string{cluster.S1: "alice", cluster.S2: "bob"} {
		l := &lane{Soak: s, node: node, who: who, plans: NewPlans(seed, node, calm), kept: map[string]record{}, counts: map[Blow]*count{}}
		if err := l.belongings(ctx); err != nil {
			return nil, errors.Join(err, site.Close())
		}
		s.lanes = append(s.lanes, l)
	}
	return s, nil
}

// End ends the site, after a failure with its nodes' logs kept in dir.
func (s *Soak) End(failed error, dir string) error {
	var err error
	if failed != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err = s.KeepLogs(ctx, dir)
		s.say("", "logs of all nodes: %s", dir)
	}
	return errors.Join(err, s.Close())
}

// say writes a line of the log.
func (s *Soak) say(node, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "%6.0f s %-4s %s\n", time.Since(s.began).Seconds(), node, fmt.Sprintf(format, args...))
}

func (l *lane) say(format string, args ...any) { l.Soak.say(l.node, format, args...) }

// fault notes what must not be.
func (l *lane) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.say("BAD: %s", text)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = append(l.bad, fmt.Sprintf("%.0f s, %s: %s", time.Since(l.began).Seconds(), l.node, text))
}

// belongings makes what the lane's jobs have besides results that are made.
func (l *lane) belongings(ctx context.Context) error {
	if err := l.MakeVolume(ctx, l.who, inputs, map[string]string{"word": word + "\n"}); err != nil {
		return err
	}
	if err := l.Write(l.who, keyFile, word+"\n"); err != nil {
		return err
	}
	images, err := analysis.Tiny(ctx)
	if err != nil {
		return err
	}
	if err := l.CopyToLaptop(l.who, images.SIF, imageFile); err != nil {
		return err
	}
	return l.Upload(ctx, l.who, imageFile)
}

// For begins jobs on both nodes for as long as it is told, waits for the last,
// looks what is left, and prints the report. The error says that something was
// not as it must be, or that the soak itself failed.
func (s *Soak) For(ctx context.Context, length time.Duration) error {
	end := time.Now().Add(length)
	errs := make([]error, len(s.lanes))
	var wg sync.WaitGroup
	for i, l := range s.lanes {
		wg.Go(func() {
			if err := l.run(ctx, end); err != nil {
				errs[i] = fmt.Errorf("node %s: %w", l.node, err)
				s.say(l.node, "the lane ends: %v", err)
			}
		})
	}
	wg.Wait()
	return s.conclude(ctx, errs...)
}

// conclude looks what the sessions left and prints the report.
func (s *Soak) conclude(ctx context.Context, errs ...error) error {
	if ctx.Err() == nil {
		for _, l := range s.lanes {
			if err := l.leftovers(ctx); err != nil {
				errs = append(errs, err)
			}
		}
	}
	s.report()
	if len(s.bad) > 0 {
		errs = append(errs, fmt.Errorf("%d things were not as they must be", len(s.bad)))
	}
	return errors.Join(errs...)
}

// begin has a first session: what that leaves for good, such as loaded modules,
// is no leak.
func (l *lane) begin(ctx context.Context) error {
	if err := l.play(ctx, Plan{Blow: Nothing, Records: 1, Inputs: true, Image: true, Step: true}); err != nil {
		return err
	}
	if err := l.rest(ctx); err != nil {
		return err
	}
	l.rested = l.samples[len(l.samples)-1]
	var err error
	l.usual, err = l.surveyed(ctx)
	return err
}

func (l *lane) run(ctx context.Context, end time.Time) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	for time.Now().Before(end) && ctx.Err() == nil {
		if err := l.play(ctx, l.plans.Next()); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// play runs one job with what befalls it, and looks at what came of it. The
// error is the soak's own.
func (l *lane) play(ctx context.Context, p Plan) error {
	l.say("%v", p)
	if p.Ordinary {
		if err := l.ordinary(ctx); err != nil {
			return err
		}
	}
	l.sessions++
	began := time.Now()
	name := fmt.Sprintf("soak-%s-%d", l.node, p.Number)
	job, err := l.submit(ctx, name, p)
	if err != nil {
		return err
	}
	least, err := l.befall(ctx, p, job)
	if err != nil {
		return err
	}
	e, err := l.ended(ctx, job)
	if err != nil {
		return err
	}
	if e.State == "COMPLETED" {
		least = p.Records
	}
	l.judge(p, e, began, least)
	fenced := l.settle(ctx, p, began)
	l.results(ctx, p, least, fenced)
	return l.sample(ctx)
}

// submit seals and submits a job. The key server or Slurm may just be away by
// the other lane's doing.
func (l *lane) submit(ctx context.Context, name string, p Plan) (job uint32, err error) {
	for deadline := time.Now().Add(patience); ; {
		if err = l.Seal(ctx, l.who, name, l.script(p)); err == nil {
			// Whether Slurm may run it again is not this test's.
			if job, err = l.Submit(ctx, l.who, "--no-requeue --secure "+name+".sealed"); err == nil {
				return job, nil
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return 0, err
		}
		l.say("again: %v", err)
		if err := pause(ctx, 3*time.Second); err != nil {
			return 0, err
		}
	}
}

// ended waits until Slurm says that the job is over.
func (l *lane) ended(ctx context.Context, job uint32) (e deploy.Ended, err error) {
	for deadline := time.Now().Add(2 * patience); ; {
		e, err = l.Look(ctx, job)
		switch {
		case err != nil: // slurmctld may be away
		case e.State == "PENDING", e.State == "RUNNING", e.State == "COMPLETING", e.State == "CONFIGURING":
			err = fmt.Errorf("job %d is still %s", job, e.State)
		default:
			e.Output, err = l.Output(ctx, cluster.Head, fmt.Sprintf("cat %s/slurm-%d.out 2>/dev/null; true", deploy.Home(l.who), job))
			return e, err
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return e, err
		}
		if err := pause(ctx, time.Second); err != nil {
			return e, err
		}
	}
}

// patience is for what an emulated node does on a busy machine: a boot, a
// session with a file server that hung in it.
const patience = 5 * time.Minute

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
