package attacks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onNeighbours are attacks by what else is, or wants to be, on the node.
var onNeighbours = []Attack{
	{Number: 14, Who: "A4", Name: "processes from before the session, of the victim and of others, look into the job: by ssh, from an ordinary job, of a lingering user", Long: true,
		Defences: defences(mutant.StopSSH, mutant.EndLogins, mutant.EndForeign, mutant.DoorsWatch, mutant.ProcessWatch), Before: plantSpies, During: spiesSaw, After: withdrawSpies},
	{Number: 15, Who: "A2 A4", Name: "a second job is put on the node: by another user, by who controls Slurm while the session's job is suspended, without an allocation", Long: true,
		Defences: defences(mutant.OneJob, mutant.ProcessWatch), During: secondJob},
	{Number: 35, Who: "A4", Name: "processes of the job daemonise, unshare their namespaces and hold volumes open, and slurmstepd dies", Long: true,
		Defences: defences(mutant.KillGroup), Try: clingers},
}

// spies are who spies from where, by the names of their notes.
var spies = []string{"alice-ssh", "bob-ssh", "alice-job", "dave-lingering"}

func notes(spy string) string { return "/var/tmp/notes-" + spy }

// plantSpies starts a spy each way on s2. dave exists there alone: a user who
// lingers has processes again after the session.
func plantSpies(ctx context.Context, s *deploy.Site) error {
	start := func(spy string) string {
		return "setsid nohup " + probe + " spy " + notes(spy) + " $(id -u alice) " + Secret + " >/dev/null 2>&1 </dev/null &"
	}
	if _, err := s.Output(ctx, cluster.S2, "rm -f "+notes("*")+"; id -u dave >/dev/null 2>&1 || useradd -u 2004 -M -s /bin/sh dave; loginctl enable-linger dave"); err != nil {
		return err
	}
	for _, who := range []string{"alice", "bob"} {
		if _, err := s.OutputAs(ctx, who, cluster.Login, "ssh "+sshOptions+"s2 '"+strings.ReplaceAll(start(who+"-ssh"), "$(id -u alice)", "2001")+"'"); err != nil {
			return err
		}
	}
	// Slurm kills what stays in the job's control group; ssh leads out of it.
	id, err := s.Submit(ctx, "alice", "-p secure -w s2 -o /dev/null --wrap \"ssh "+sshOptions+"s2 '"+strings.ReplaceAll(start("alice-job"), "$(id -u alice)", "2001")+"'\"")
	if err != nil {
		return err
	}
	if err := jobOver(ctx, s, id); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.S2, `for i in $(seq 60); do systemctl is-active -q user@2004 && break; sleep 0.5; done
setpriv --reuid=dave --regid=dave --init-groups env XDG_RUNTIME_DIR=/run/user/2004 systemd-run -q --user `+probe+" spy "+notes("dave-lingering")+" 2001 "+Secret); err != nil {
		return err
	}
	out, err := s.Output(ctx, cluster.S2, "for i in $(seq 40); do [ $(ls "+notes("*")+" | wc -l) = "+fmt.Sprint(len(spies))+" ] && break; sleep 0.3; done; ls "+notes("*"))
	if err != nil {
		return err
	}
	if n := len(strings.Fields(out)); n != len(spies) {
		return fmt.Errorf("%d of %d spies run even without a session: %q", n, len(spies), out)
	}
	return nil
}

// jobOver waits until an ordinary job has left its node.
func jobOver(ctx context.Context, s *deploy.Site, id uint32) error {
	_, err := s.Output(ctx, cluster.Head, fmt.Sprintf("for i in $(seq 120); do [ -z \"$(timeout 20 squeue -h -j %d 2>/dev/null)\" ] && exit 0; sleep 0.5; done; exit 1", id))
	return err
}

// spiesSaw counts what they got of the victim's job, not of each other's, and who lives.
func spiesSaw(ctx context.Context, s *deploy.Site, v Victim) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, withdrawSpies(context.WithoutCancel(ctx), s, v))
		}
	}()
	// Long enough for a spy's next rounds.
	r, err := s.Run(ctx, cluster.S2, "sleep 4; for n in "+notes("*")+"; do sed \"s/^/${n##*/notes-}: /\" $n; done; for p in $(pgrep -x probe); do tr '\\0' ' ' </proc/$p/cmdline; echo; done")
	if err != nil {
		return err
	}
	ways := map[string]bool{}
	for line := range strings.Lines(r.Stdout) {
		line = strings.TrimSpace(line)
		if spy, ok := strings.CutPrefix(line, probe+" spy /var/tmp/notes-"); ok {
			who, _, _ := strings.Cut(spy, " ")
			ways[who+" lives"] = true
		} else if who, note, ok := strings.Cut(line, ": "); ok && slices.Contains(spies, who) {
			if group, what, _ := strings.Cut(note, " "); strings.Contains(group, fmt.Sprintf("/job_%d/", v.Job)) {
				ways[who+" "+what] = true
			}
		}
	}
	return each(ways, "of the spies")
}

// withdrawSpies removes dave, whose manager runs again by now.
func withdrawSpies(ctx context.Context, s *deploy.Site, _ Victim) error {
	_, err := s.Output(ctx, cluster.S2, "loginctl disable-linger dave; loginctl terminate-user dave; for i in $(seq 50); do pgrep -u dave >/dev/null || break; sleep 0.2; done; userdel dave; rm -f "+notes("*"))
	return err
}

// secondJob: the marker says that bob's code ran on the node.
func secondJob(ctx context.Context, s *deploy.Site, v Victim) error {
	marker := deploy.Home("bob") + "/" + fresh("second-job")
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, "timeout 30 scancel -u bob; scontrol delete reservation=second 2>/dev/null; timeout 30 scontrol resume "+fmt.Sprint(v.Job))
	ran := func(way string) (string, error) {
		r, err := s.Run(ctx, cluster.Head, "cat "+marker+" 2>/dev/null; rm -f "+marker)
		if err != nil || !strings.Contains(r.Stdout, "ran") {
			return "", err
		}
		return way, nil
	}
	ways := map[string]bool{}
	note := func(way string) error {
		done, err := ran(way)
		if done != "" {
			ways[done] = true
		}
		return err
	}
	wrap := " -o " + marker + ".out --wrap 'echo ran > " + marker + "'"
	// Beside the session's job: Slurm's own part, it must stay in the queue.
	if _, err := s.Submit(ctx, "bob", "-p secure -w s2 --overcommit --oversubscribe"+wrap); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "timeout 30 scontrol create reservation reservationname=second nodes=s2 users=bob starttime=now duration=10 flags=ignore_jobs"); err != nil {
		return err
	}
	if _, err := s.Submit(ctx, "bob", "-p secure -w s2 --reservation=second"+wrap); err != nil {
		return err
	}
	// Who controls Slurm needs no allocation.
	if _, err := s.Run(ctx, cluster.Head, "timeout 60 srun --no-allocate -n1 -w s2 --uid=bob sh -c 'echo ran > "+marker+"' 2>&1"); err != nil {
		return err
	}
	if err := note("a step without an allocation"); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "timeout 30 scancel -u bob"); err != nil {
		return err
	}
	// A suspended job's cores are free for others, in Slurm's eyes.
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("timeout 60 scontrol delete reservation=second; timeout 60 scontrol suspend %d", v.Job)); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "bob", "-p secure -w s2 --overcommit --oversubscribe"+wrap)
	if err != nil {
		return err
	}
	placed := ""
	for end := time.Now().Add(40 * time.Second); placed == "" && time.Now().Before(end); time.Sleep(time.Second) {
		// noded has the node drained; who controls Slurm takes that back.
		if _, err := s.Run(ctx, cluster.Head, "timeout 20 scontrol update nodename=s2 state=resume 2>&1"); err != nil {
			return err
		}
		e, err := s.Look(ctx, id)
		if err != nil {
			return err
		}
		if e.State != "PENDING" {
			placed = e.State
		}
	}
	if placed == "" {
		return fmt.Errorf("no job was put beside the suspended one by Slurm")
	}
	if err := jobOver(ctx, s, id); err != nil {
		return err
	}
	if err := note("a job beside the suspended one"); err != nil {
		return err
	}
	return each(ways, "on the victim's node ran")
}

// clingers outlive their session if they can. slurmstepd, which would end them
// as well, is killed first.
func clingers(ctx context.Context, s *deploy.Site) error {
	cling := probe + " cling /data/secret.txt /results/out.txt"
	lines := cling + " &\n" + // and never waited for
		"(setsid sh -c '(setsid " + cling + " &)' >/dev/null 2>&1 &)\n" + // a daemon by the book
		"(setsid unshare --user --map-root-user --mount --pid --ipc --uts --net --cgroup --fork " + cling + " >/dev/null 2>&1 &)\n" +
		"i=0; while [ $(pgrep -cx probe) -lt 3 ] && [ $i -lt 100 ]; do i=$((i+1)); timeout 0.1 tail -f /dev/null; done\n"
	name, err := sealed(ctx, s, "cling", lines+"sleep 1000\n")
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
	const living = "pgrep -u alice -x probe -a | wc -l"
	n, err := s.Output(ctx, cluster.S2, living)
	if err != nil {
		return err
	}
	if strings.TrimSpace(n) != "3" {
		return fmt.Errorf("of the job's three daemons %s run", strings.TrimSpace(n))
	}
	if _, err := s.Output(ctx, cluster.S2, fmt.Sprintf("pkill -KILL -f 'slurmstepd: \\[%d'", id)); err != nil {
		return err
	}
	var left string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if left, err = s.Traces(ctx, cluster.S2); err != nil {
			return err
		}
		if left == "" {
			break
		}
	}
	// Nobody tells Slurm that the job is over: it would wait for its time limit.
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("timeout 60 scancel %d", id)); err != nil {
		return err
	}
	if err := jobOver(ctx, s, id); err != nil {
		return err
	}
	if left == "" {
		return idle(ctx, s, cluster.S2)
	}
	if strings.Contains(left, " probe") {
		if n, err = s.Output(ctx, cluster.S2, living); err != nil {
			return err
		}
		return got("%s processes of the job live on after it", strings.TrimSpace(n))
	}
	return fmt.Errorf("after slurmstepd was killed there is left on the node: %s", left)
}
