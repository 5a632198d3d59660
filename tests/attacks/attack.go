// Package attacks holds the attacks of docs/threat-model.md as programs that
// try them on a real cluster.
//
// An attack that is refused as it must be returns nil; one that succeeds, even
// in part, returns an error that says what the attacker got. Each names the
// defence whose mutant lets it succeed, so that it is known to be able to fail.
package attacks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// An Attack is one row of docs/threat-model.md, or a part of one. It is either
// a Try of its own or a look During a session, which may be shared with others'.
type Attack struct {
	// Number is the row's, Who the adversaries who can try it: "A1 A2".
	Number int
	Who    string
	// Name says who does what, for the table.
	Name string
	// Long says that `make attacks` alone makes it, not `make test`: it takes
	// minutes, or was not yet seen to end alike on a busy machine.
	Long bool
	// Defences stand against it. Each alone may stop it, so all of them are
	// taken out for the run that must succeed.
	Defences []mutant.Defence
	// Control, for an attack on what Cloister adds by its presence, is the
	// same attack where there is no Cloister. It must return a Success. An
	// attack has Defences or a Control.
	Control func(ctx context.Context, s *deploy.Site) error
	// Try makes the attack. Nil says that it was refused as it must be, a
	// Success that it was not, any other error that nothing was shown.
	Try func(ctx context.Context, s *deploy.Site) error
	// Before prepares the attacked node cluster.S2 while it is open, During
	// attacks in a session there, After looks once the session is over. Errors
	// mean what Try's do. Each but During may be nil.
	Before        func(ctx context.Context, s *deploy.Site) error
	During, After func(ctx context.Context, s *deploy.Site, v Victim) error
	// Inside is what the victim's script itself does before During, in a
	// subshell. What it prints is After's Victim.Said.
	Inside string
}

// A Victim is a job of alice's that runs on cluster.S2.
type Victim struct {
	Job     uint32
	Results string // her results volume's file name
	// Said is what an attack's Inside printed; known only once the job is over.
	Said string
}

// A Success is what an attacker got, in words for the table: "root ran a step".
type Success string

func (s Success) Error() string { return "the attack succeeded: " + string(s) }

// got makes a Success, of one line.
func got(format string, args ...any) error {
	line, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
	return Success(line)
}

// defences shortens the lists.
func defences(d ...mutant.Defence) []mutant.Defence { return d }

// All are in the order of their numbers.
var All = slices.SortedStableFunc(slices.Values(slices.Concat(
	onLaunches,
	onJobs,
	onSigners,
	onPlaces,
	onSpool,
	onSurroundings,
	onUsers,
	onEncoding,
	onNodes,
	onSlurmd,
	onSteps,
	onSocket,
	onOutput,
	onPaths,
	onMounts,
	onHostileVolumes,
	onTampering,
	onResults,
	onProbes,
	onTokens,
	onPorts,
	onLogins,
	onNeighbours,
	onLeftovers,
	onFilter,
)), func(a, b Attack) int { return a.Number - b.Number })

// Run makes the attack, with a session of its own if it needs one.
func (a Attack) Run(ctx context.Context, s *deploy.Site) error {
	if a.Try != nil {
		return a.Try(ctx, s)
	}
	found := make([]error, 1)
	err := Together(ctx, s, []Attack{a}, func(_ int, err error) { found[0] = err })
	if found[0] != nil {
		return found[0] // what the attacker got may well spoil the session
	}
	return err
}

// Together makes attacks During one session. Each is reported, with its index,
// as soon as it is known how it ended; After's come last. The error is the
// session's own.
func Together(ctx context.Context, s *deploy.Site, all []Attack, report func(int, error)) error {
	found := make([]error, len(all))
	for i, a := range all {
		if a.Before != nil {
			found[i] = a.Before(ctx, s)
		}
	}
	var victim Victim
	var script strings.Builder
	for i, a := range all {
		if a.Inside != "" {
			fmt.Fprintf(&script, "(\n%s\n) > /results/%s 2>&1 </dev/null\n", a.Inside, said(i))
		}
	}
	err := during(ctx, s, "victim", script.String(), func(v Victim) error {
		victim = v
		for i, a := range all {
			if found[i] == nil && a.During != nil {
				found[i] = a.During(ctx, s, v)
			}
		}
		return nil
	})
	if err == nil && script.Len() > 0 {
		_, err = s.Results(ctx, "alice", victim.Results, "out.txt")
	}
	for i, a := range all {
		if err == nil && found[i] == nil && a.After != nil {
			v := victim
			if a.Inside != "" {
				v.Said, found[i] = extracted(s, v.Results, said(i))
			}
			if found[i] == nil {
				found[i] = a.After(ctx, s, v)
			}
		}
		report(i, found[i])
	}
	return err
}

// said is the file in the results volume for what an attack's Inside prints.
func said(i int) string { return fmt.Sprintf("said-%d.txt", i) }

// extracted reads a file of a volume of alice's whose results were taken.
func extracted(s *deploy.Site, volume, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), volume+".out", file))
	return string(b), err
}

// Secret is in the volume of every attacked job.
const Secret = "canary-3f1c-the-patients-record"

// Volume is the file name of the volume with Secret in secret.txt.
const Volume = "in.luks"

// Prepare makes alice's volume and puts the attackers' program on the nodes
// that they are on, once for a site.
func Prepare(ctx context.Context, s *deploy.Site) error {
	if err := installProbe(ctx, s); err != nil {
		return err
	}
	return s.MakeVolume(ctx, "alice", Volume, map[string]string{"secret.txt": Secret + "\n"})
}

// job is a script that reads the secret and writes it to its results.
func job(results, body string) string {
	return `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=` + Volume + `:/data:ro
#CLOISTER volume=` + results + `:/results:rw,create,size=32M
#CLOISTER output=/results/out.txt
` + body
}

var tries atomic.Int64

// fresh is a name that no earlier try used, so that none stands in the way of
// the next.
func fresh(name string) string { return fmt.Sprintf("%s-%d", name, tries.Add(1)) }

// sealed seals a job of alice's that prints the secret and does more, and
// returns its name: the sealed job is name.sealed, the results name.luks.
func sealed(ctx context.Context, s *deploy.Site, kind, more string) (name string, err error) {
	name = fresh(kind)
	return name, s.Seal(ctx, "alice", name, job(name+".luks", "cat /data/secret.txt\n"+more))
}

// completed waits for a job of alice's that must run to its end.
func completed(ctx context.Context, s *deploy.Site, id uint32) error {
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	if end.State != "COMPLETED" {
		return fmt.Errorf("the job is %s: %s", end.State, end.Output)
	}
	return nil
}

const limit = 4 * time.Minute

// refused runs a sealed job that must be refused, and says what was wrong with
// the refusal.
func refused(ctx context.Context, s *deploy.Site, who, args, because string) error {
	id, err := s.Submit(ctx, who, args)
	if err != nil {
		return err
	}
	return refusedJob(ctx, s, who, id, because)
}

// refusedJob waits for a job that must be refused.
func refusedJob(ctx context.Context, s *deploy.Site, who string, id uint32, because string) error {
	end, err := s.Wait(ctx, who, id, limit)
	if err != nil {
		return err
	}
	if end.State == "COMPLETED" {
		return got("the job ran")
	}
	if end.State != "FAILED" {
		return fmt.Errorf("the job is %s, not FAILED: %s", end.State, end.Output)
	}
	if !strings.Contains(end.Output, because) {
		return fmt.Errorf("the job's output does not say %q but %q", because, end.Output)
	}
	return idle(ctx, s, end.Node)
}

// idle wants a node that Slurm has in service and on which nothing is left.
func idle(ctx context.Context, s *deploy.Site, node string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		state, err := s.NodeState(ctx, node)
		if err != nil {
			return err
		}
		left, err := s.Traces(ctx, node)
		if err != nil {
			return err
		}
		if state == "idle" && left == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("afterwards node %s is %s, and on it: %s", node, state, left)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// during submits a sealed job of alice's that does what the lines say, calls
// look once they are done, and lets it end.
func during(ctx context.Context, s *deploy.Site, kind, lines string, look func(Victim) error) error {
	// The script runs as long as nobody killed its sleep.
	name, err := sealed(ctx, s, kind, lines+"sleep 1000 || true\n")
	if err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		return err
	}
	found := look(Victim{Job: id, Results: name + ".luks"})
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
		return errors.Join(found, err)
	}
	if err := completed(ctx, s, id); err != nil {
		return errors.Join(found, err)
	}
	if found != nil {
		return found
	}
	return idle(ctx, s, cluster.S2)
}
