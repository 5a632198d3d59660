//go:build mutants

// Command attacks tries every attack of docs/threat-model.md on a real
// cluster, once with all defences in place, where it must be refused, and once
// without those that stand against it, where it must succeed. It prints a
// table and writes the rows of those that ended so into the document.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cloister/mutant"
	"cloister/noded/nodecheck"
	"cloister/tests/attacks"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

func main() {
	numbers := flag.String("attack", "", "try only the attacks of these numbers, such as 9 or 9,14")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *numbers); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "attacks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, numbers string) (err error) {
	chosen, err := choose(numbers)
	if err != nil {
		return err
	}
	s, err := deploy.Start(ctx, deploy.Mutants, func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := attacks.Prepare(ctx, s); err != nil {
		return err
	}
	fmt.Print(attacks.Heading)
	var outcomes []attacks.Outcome
	var faults []error
	for _, a := range chosen {
		began := time.Now()
		o, err := try(ctx, s, a)
		if err != nil {
			return fmt.Errorf("%s: %w", a.Title(), err)
		}
		fmt.Println(o.Row())
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", a.Title(), time.Since(began).Seconds())
		if f := o.Faults(); f != "" {
			faults = append(faults, fmt.Errorf("%s: %s", a.Title(), f))
			continue
		}
		outcomes = append(outcomes, o)
	}
	faults = append(faults, attacks.AllIdle(ctx, s), attacks.WriteTable(attacks.Document, outcomes))
	if err := errors.Join(faults...); err != nil {
		return err
	}
	fmt.Printf("%d attacks: each refused, each shown to succeed without its defence; all nodes idle\n", len(outcomes))
	return nil
}

// choose returns the attacks of a list of numbers, all for an empty one.
func choose(numbers string) ([]attacks.Attack, error) {
	if numbers == "" {
		return attacks.All, nil
	}
	var chosen []attacks.Attack
	for number := range strings.SplitSeq(numbers, ",") {
		before := len(chosen)
		for _, a := range attacks.All {
			if strconv.Itoa(a.Number) == number {
				chosen = append(chosen, a)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("no attack has the number %q; docs/threat-model.md lists them", number)
		}
	}
	return chosen, nil
}

func try(ctx context.Context, s *deploy.Site, a attacks.Attack) (attacks.Outcome, error) {
	o := attacks.Outcome{Attack: a}
	if err := remove(ctx, s, nil); err != nil {
		return o, err
	}
	o.With = a.Run(ctx, s)
	if a.Control != nil {
		o.Without = a.Control(ctx, s)
		return o, ctx.Err()
	}
	if err := remove(ctx, s, a.Defences); err != nil {
		return o, err
	}
	o.Without = a.Run(ctx, s)
	return o, errors.Join(remove(ctx, s, nil), attacks.Restore(ctx, s), ctx.Err())
}

// remove takes the defences out on every node, and puts all others back.
func remove(ctx context.Context, s *deploy.Site, defences []mutant.Defence) error {
	var names []string
	for _, d := range defences {
		names = append(names, string(d))
	}
	for _, node := range []string{cluster.Head, cluster.Login, cluster.S1, cluster.S2} {
		if _, err := s.Output(ctx, node, "echo '"+strings.Join(names, " ")+"' > "+mutant.File+" && chmod 644 "+mutant.File); err != nil {
			return err
		}
	}
	return removeRule(ctx, s, slices.Contains(defences, mutant.UdevRule))
}

// removeRule takes udev's rule away, or puts it back: a defence that is no code
// cannot look into the mutants file.
func removeRule(ctx context.Context, s *deploy.Site, away bool) error {
	from, to := "/run/"+nodecheck.RulesFile, "/etc/udev/rules.d/"+nodecheck.RulesFile
	if away {
		from, to = to, from
	}
	for _, node := range []string{cluster.S1, cluster.S2} {
		if _, err := s.Output(ctx, node, "[ -e "+to+" ] || { mv "+from+" "+to+" && udevadm control --reload; }"); err != nil {
			return err
		}
	}
	return nil
}
