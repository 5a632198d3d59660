// Command faults is `make faults`: each kind of fault at each call of a session
// that changes the node. It takes hours; what it found is kept after each, and
// the next run goes on from there. It prints the matrix and writes it into
// docs/faults.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"cloister/tests/faults"
)

func main() {
	var o options
	flag.StringVar(&o.file, "results", "tests/faults/results.json", "what was found so far")
	flag.DurationVar(&o.most, "for", 0, "begin no fault after this time (default: until all are done)")
	flag.StringVar(&o.only, "only", "", "try only what matches this regular expression, such as '^error unlock:'")
	flag.IntVar(&o.group, "group", 6, "how many faults come before a job without any")
	flag.IntVar(&o.lanes, "lanes", 1, "on how many clusters at once; waiting for time-outs takes no processor")
	flag.BoolVar(&o.list, "list", false, "list the calls of a session and end")
	flag.StringVar(&o.document, "document", "docs/faults.md", "the document with the matrix")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

type options struct {
	file, only, document string
	most                 time.Duration
	group, lanes         int
	list                 bool
}

type logger = func(format string, args ...any)

// laneLog says of which lane it speaks, if there are several.
func laneLog(i, lanes int) logger {
	prefix := ""
	if lanes > 1 {
		prefix = fmt.Sprintf("%d: ", i+1)
	}
	return func(format string, args ...any) { fmt.Fprintf(os.Stderr, prefix+format+"\n", args...) }
}

func run(ctx context.Context, o options) (err error) {
	if o.group < 1 || o.lanes < 1 {
		return errors.New("-group and -lanes must be at least 1")
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	var late <-chan time.Time
	if o.most > 0 {
		late = time.After(o.most)
	}
	b, err := faults.Start(ctx, laneLog(0, o.lanes))
	if err != nil {
		return err
	}
	if o.list {
		defer b.Close()
		calls, err := b.Calls(ctx)
		for _, c := range calls {
			fmt.Println(c)
		}
		return err
	}
	m, err := faults.Open(ctx, o.file, b)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	left := slices.DeleteFunc(m.Left(), func(c faults.Cell) bool { return !only.MatchString(c.String()) })
	groups := make(chan []faults.Cell)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		defer close(groups)
		for group := range slices.Chunk(left, o.group) {
			select {
			case groups <- group:
			case <-late:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	ended := make(chan error, o.lanes)
	for i := range o.lanes {
		go func(b *faults.Bench) {
			err := lane(ctx, laneLog(i, o.lanes), b, m, groups)
			if err != nil {
				stop(err)
			}
			ended <- err
		}(b)
		b = nil
	}
	for range o.lanes {
		err = errors.Join(err, <-ended)
	}
	fmt.Print(m.Table())
	return errors.Join(err, m.WriteTable(o.document), m.Verdict())
}

// lane tries groups on a cluster of its own, b if there is one yet, until none
// is left.
func lane(ctx context.Context, log logger, b *faults.Bench, m *faults.Matrix, groups <-chan []faults.Cell) (err error) {
	if b == nil {
		if b, err = faults.Start(ctx, log); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	t := &trial{b, m, log}
	for group := range groups {
		if _, err := t.group(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

type trial struct {
	b   *faults.Bench
	m   *faults.Matrix
	log logger
}

// group tries cells one after another. If anything is bad the group is divided,
// until it is known of which.
func (t *trial) group(ctx context.Context, cells []faults.Cell) (bad bool, err error) {
	if len(cells) == 0 || ctx.Err() != nil {
		return false, nil
	}
	found, err := t.b.Group(ctx, cells)
	if ctx.Err() != nil {
		return false, nil
	}
	at := slices.IndexFunc(found, func(o faults.Outcome) bool { return len(o.Bad) > 0 })
	if err == nil && at < 0 {
		return false, t.m.Keep(found...)
	}
	t.log("bad, or nothing was shown (%v), of %v", err, cells)
	if logs, err := t.b.KeepLogs(ctx); err != nil {
		t.log("keeping the nodes' logs: %v", err)
	} else {
		t.log("the nodes' logs are in %s", logs)
	}
	shown := err == nil
	if err := t.b.Renew(ctx); err != nil {
		return true, err
	}
	n := len(cells)
	if n == 1 {
		if !shown {
			return true, nil
		}
		return true, t.m.Keep(faults.Alone(found))
	}
	parts := [][]faults.Cell{cells[:n/2], cells[n/2:]}
	if shown && at < n {
		parts = [][]faults.Cell{{cells[at]}, slices.Delete(slices.Clone(cells), at, at+1)}
	}
	for _, part := range parts {
		b, err := t.group(ctx, part)
		if err != nil {
			return true, err
		}
		bad = bad || b
	}
	if shown && !bad && ctx.Err() == nil {
		return true, t.m.KeepTogether(fmt.Sprintf("%v: %s; not so in the parts %v", cells[:min(at+1, n)], found[at], parts))
	}
	return bad, nil
}
