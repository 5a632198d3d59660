package soak

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// batch is how many sessions there are between two looks at noded: the tasks of
// one array.
const batch = 20

// Many runs small jobs, tasks of arrays, one after another on the on-demand node,
// looks at noded after each array, and prints the report as For does. It begins no
// array after length.
func (s *Soak) Many(ctx context.Context, sessions int, length time.Duration) error {
	end := time.Now().Add(length)
	for _, l := range s.lanes {
		if l.node == cluster.S2 {
			s.lanes = []*lane{l}
		}
	}
	l := s.lanes[0]
	if err := l.begin(ctx); err != nil {
		return err
	}
	for n := 1; l.sessions < sessions && time.Now().Before(end) && ctx.Err() == nil; n++ {
		if err := l.array(ctx, fmt.Sprintf("many-%d", n)); err != nil {
			return err
		}
	}
	err := ctx.Err()
	if err == nil && l.sessions < sessions {
		err = fmt.Errorf("after %v there were %d of %d sessions", length, l.sessions, sessions)
	}
	return s.conclude(ctx, err)
}

// array runs one array and looks at what came of it. Of its volumes one is read.
// The error is the soak's own.
func (l *lane) array(ctx context.Context, name string) error {
	began, before := time.Now(), l.samples[len(l.samples)-1].sessions
	if err := l.Seal(ctx, l.who, name, fmt.Sprintf(`#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=%s
#SBATCH --time=10
#SBATCH --array=1-%d%%1
#CLOISTER class=%s
#CLOISTER volume=%s:/data:ro
#CLOISTER volume=%s-%%a.luks:/results:rw,create,size=32M
#CLOISTER output=/results/out.txt
cat /data/word
`, l.node, batch, deploy.Classes[l.node], inputs, name)); err != nil {
		return err
	}
	job, err := l.Submit(ctx, l.who, "--no-requeue --secure "+name+".sealed")
	if err != nil {
		return err
	}
	// The guests wait by themselves: asking them costs the sessions' processor time. A session takes some
	// 7 s on an idle machine, 20 s on a busy one; slurmctld forgets a task MinJobAge, five minutes, after its end.
	states, err := l.Output(ctx, cluster.Head, fmt.Sprintf(`ended() {
	timeout 30 scontrol -o show job %[1]d | sed -n 's/^JobId=\([0-9]*\) .* JobState=\([A-Z_]*\) .*/\1 \2/p' | grep -v -e PENDING -e RUNNING -e COMPLETING -e CONFIGURING
}
for i in $(seq 400); do
	[ -n "$(timeout 30 squeue -h -j %[1]d -o %%T 2>/dev/null)" ] || break
	[ $((i %% 40)) -ne 0 ] || ended
	sleep 3
done >/tmp/%[3]s
ended >>/tmp/%[3]s
sort -u /tmp/%[3]s | cut -d ' ' -f 2 | sort | uniq -c
rm /tmp/%[3]s
ls %[2]s/%[3]s-*.luks | wc -l`, job, deploy.Home(l.who), name), cluster.Timeout(5*patience))
	if err != nil {
		return err
	}
	l.settle(ctx, Plan{Blow: Nothing}, began)
	if err := l.sample(ctx); err != nil {
		return err
	}
	l.sessions += batch
	ended := l.samples[len(l.samples)-1].sessions - before
	if strings.Join(strings.Fields(states), " ") != fmt.Sprintf("%d COMPLETED %[1]d", batch) || ended != batch {
		l.fault("of %s, %d tasks: %q, and noded ended %d sessions", name, batch, states, ended)
	} else {
		l.counts[Nothing].jobs += batch
		l.counts[Nothing].ends["COMPLETED"] += batch
	}
	if read, err := l.Results(ctx, l.who, fmt.Sprintf("%s-%d.luks", name, batch), "out.txt"); err != nil || read != word+"\n" {
		l.fault("the results of %s: %q, %v", name, read, err)
	}
	l.say("%d sessions, %v for the last %d", l.sessions, time.Since(began).Round(time.Second), batch)
	_, err = l.Output(ctx, cluster.Head, fmt.Sprintf("rm -f %[1]s/%[2]s-*.luks %[1]s/slurm-%[3]d_*.out", deploy.Home(l.who), name, job))
	return err
}
