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
	group                int
	list                 bool
}

func log(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func run(ctx context.Context, o options) (err error) {
	began := time.Now()
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	b, err := faults.Start(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if o.list {
		calls, err := b.Calls(ctx)
		for _, c := range calls {
			fmt.Println(c)
		}
		return err
	}
	m, err := faults.Open(ctx, o.file, b)
	if err != nil {
		return err
	}
	t := &trial{b, m}
	var group []faults.Cell
	for _, c := range m.Left() {
		if ctx.Err() != nil || o.most > 0 && time.Since(began) > o.most {
			break
		}
		if !only.MatchString(c.String()) {
			continue
		}
		if group = append(group, c); len(group) == o.group {
			if _, err := t.group(ctx, group); err != nil {
				return err
			}
			group = nil
		}
	}
	if ctx.Err() == nil {
		if _, err := t.group(ctx, group); err != nil {
			return err
		}
	}
	fmt.Print(m.Table())
	return errors.Join(m.WriteTable(o.document), m.Verdict())
}

type trial struct {
	b *faults.Bench
	m *faults.Matrix
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
	log("bad, or nothing was shown (%v), of %v", err, cells)
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
