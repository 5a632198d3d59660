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
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"cloister/tests/faults"
)

func main() {
	var o options
	flag.StringVar(&o.file, "results", filepath.Join(os.Getenv("CLOISTER_CACHE"), "faults.json"), "what was found so far")
	flag.DurationVar(&o.most, "for", 0, "begin no fault after this time (default: until all are done)")
	flag.StringVar(&o.only, "only", "", "try only what matches this regular expression, such as '^error unlock:'")
	flag.BoolVar(&o.again, "again", false, "try also what was tried before")
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
	list, again          bool
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
	for _, c := range m.Cells() {
		if ctx.Err() != nil || o.most > 0 && time.Since(began) > o.most {
			break
		}
		if !only.MatchString(c.String()) || m.Done(c) && !o.again {
			continue
		}
		found, err := b.Try(ctx, c.Call, c.Fault)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			log("%v: nothing was shown: %v", c, err)
		} else {
			fmt.Println(found)
			if err := m.Keep(found); err != nil {
				return err
			}
		}
		if err != nil || len(found.Bad) > 0 {
			if err := b.Renew(ctx, log); err != nil {
				return err
			}
		}
	}
	fmt.Print(m.Table())
	return errors.Join(m.WriteTable(o.document), m.Verdict())
}
