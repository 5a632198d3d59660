package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onOutput are what a careless script leaves behind: its output, its memory.
var onOutput = []Attack{
	{Number: 17, Who: "A1 A6", Name: "a script that fails, and its children, write to standard output and error", Defences: defences(mutant.OutputInVolume), Try: carelessOutput},
	{Number: 18, Who: "A1 A6", Name: "programs of a job, and the script itself, are killed with their memory full", Long: true, Defences: defences(mutant.CoreLimit), Try: coreDump},
	{Number: 18, Who: "A1 A6", Name: "a program of a job is killed where core dumps are piped to a handler", Long: true, Defences: defences(mutant.CoreCheck), Try: pipedCore},
	{Number: 18, Who: "A1 A6", Name: "a job runs where plain swap is on", Defences: defences(mutant.SwapCheck), Try: swapOn},
}

// carelessOutput: each line says by which way it was written.
func carelessOutput(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "careless", `
echo `+Secret+` 1 by error >&2
(sleep 2; echo `+Secret+` 2 by a child) &
setsid sh -c 'echo `+Secret+` 3 by a daemon; echo `+Secret+` 4 by its error >&2'
echo `+Secret+` 5 reopened >> /proc/self/fd/1
echo `+Secret+` 6 reopened >> /dev/stderr
wait
cat /`+Secret+`/no-such-file
exit 3
`)
	if err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	if end.State != "FAILED" || end.ExitCode != "3:0" {
		return fmt.Errorf("the job is %s with %s: %s", end.State, end.ExitCode, end.Output)
	}
	for line := range strings.Lines(end.Output) {
		if !strings.HasPrefix(line, "cloister: ") {
			return got("slurm-%%j.out has %q", strings.TrimSpace(line))
		}
	}
	if strings.Contains(end.Output, Secret) {
		return got("slurm-%%j.out has the secret")
	}
	if !strings.Contains(end.Output, "cloister: the script ended with exit status 3\n") {
		return fmt.Errorf("slurm-%%j.out does not say how the script ended: %q", end.Output)
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	// The first line, by cat, and the last, of a program that failed, have no number.
	for _, want := range []string{Secret + "\n", " 1 by ", " 2 by ", " 3 by ", " 4 by ", " 5 re", " 6 re", "no-such-file"} {
		if !strings.Contains(printed, want) {
			return fmt.Errorf("the volume's out.txt has no %q: %q", want, printed)
		}
	}
	return idle(ctx, s, cluster.S2)
}

// coreDump: the script looks itself for what the kernel wrote in the view.
func coreDump(ctx context.Context, s *deploy.Site) error {
	if _, err := s.Output(ctx, cluster.S2, "touch /run/before-cores"); err != nil {
		return err
	}
	name, err := sealed(ctx, s, "killed", `
ulimit -S -c unlimited; ulimit -c unlimited
for dir in . /tmp /var/tmp /dev/shm /results; do
	(cd $dir && bash -c 'held=$(cat /data/secret.txt); kill -SEGV $$')
done
find . /tmp /var/tmp /dev/shm /results -name 'core*' -printf 'left %p\n'
kill -SEGV $$
`)
	if err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	if end.State != "FAILED" || end.ExitCode != "0:11" {
		return fmt.Errorf("the job is %s with %s: %s", end.State, end.ExitCode, end.Output)
	}
	if !strings.Contains(end.Output, "cloister: the script was ended by signal 11 (") {
		return fmt.Errorf("slurm-%%j.out does not say how the script ended: %q", end.Output)
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	if n := strings.Count(printed, "Segmentation fault"); n != 5 {
		return fmt.Errorf("%d of 5 programs were killed: %q", n, printed)
	}
	if _, left, found := strings.Cut(printed, "left "); found {
		return got("the kernel wrote the job's memory to %s in the job view", left)
	}
	const search = "find %s -xdev -type f -newer %s \\( -name 'core*' -o -path '*/coredump/*' -o -path '*/crash/*' \\)"
	for node, script := range map[string]string{
		cluster.S2:   fmt.Sprintf(search, "/ /tmp /dev/shm /run", "/run/before-cores"),
		cluster.Head: fmt.Sprintf(search, "/shared", deploy.Home("alice")+"/"+name+".sealed"),
	} {
		left, err := s.Output(ctx, node, script)
		if err != nil {
			return err
		}
		if left != "" {
			return got("a core dump is left on %s: %s", node, left)
		}
	}
	return idle(ctx, s, cluster.S2)
}

// pipedCore: the kernel starts the program of a piped core_pattern as root and
// outside of the job's view, and asks no limit first.
func pipedCore(ctx context.Context, s *deploy.Site) error {
	pattern, err := s.Output(ctx, cluster.S2, `printf '#!/bin/sh\ncat > /root/dump\n' > /root/handler && chmod 755 /root/handler && cat /proc/sys/kernel/core_pattern && echo '|/root/handler' > /proc/sys/kernel/core_pattern`)
	if err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "echo '"+strings.TrimSpace(pattern)+"' > /proc/sys/kernel/core_pattern; rm -f /root/dump /root/handler")
	name, err := sealed(ctx, s, "piped", "bash -c 'held=$(cat /data/secret.txt); kill -SEGV $$'\ntrue\n")
	if err != nil {
		return err
	}
	err = refused(ctx, s, "alice", "--secure "+name+".sealed", "which hands core dumps to a program")
	if r, lerr := s.Run(ctx, cluster.S2, "grep -q "+Secret+" /root/dump"); lerr != nil {
		return lerr
	} else if r.Exit == 0 {
		return got("the node's core dump handler was given the secret")
	}
	return err
}

// swapOn: what is written to swap stays on the disk after the session.
func swapOn(ctx context.Context, s *deploy.Site) error {
	if _, err := s.Output(ctx, cluster.S2, "head -c 16M /dev/zero > /swapfile && chmod 600 /swapfile && mkswap -q /swapfile && swapon /swapfile"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "swapoff /swapfile; rm -f /swapfile")
	name, err := sealed(ctx, s, "swap", "")
	if err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed", "swap is on")
}
