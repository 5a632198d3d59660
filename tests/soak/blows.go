package soak

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// waiting bounds a wait within a guest, in seconds. A job that never comes so
// far is struck where it is.
const waiting = 180

// untilRecord waits on a node until the job is so far, or gone, and prints the
// sleep that says so: a moment later there may be none, but the record stays.
const untilRecord = `for i in $(seq %d); do
	if pgrep -f 'slurmstepd: \[%[2]d\.' >/dev/null; then seen=1; elif [ "$seen" ]; then exit 0; fi
	s=$(pgrep -u %[3]s -a -x sleep | grep -F 'sleep 1.' | sort -k 3 | tail -1)
	n=${s##*sleep 1.}
	[ "${n:-0}" -ge %[4]d ] && echo "$s" && exit 0
	sleep 1
done`

const untilSession = `for i in $(seq %d); do ls -A /run/cloister/sessions | grep -q '^[0-9a-f]' && exit 0; sleep 0.5; done; true`

// strikes are scripts on the node, but for those that befall lets be said
// otherwise.
var strikes = map[Blow]string{
	KillNoded:    "systemctl kill -s KILL cloister-noded.service",
	KillEarly:    "systemctl kill -s KILL cloister-noded.service",
	RestartNoded: "systemctl restart cloister-noded.service",
	KillStepd:    `pkill -KILL -f 'slurmstepd: \[%d\.batch' || true`,
	KillSlurmd:   "systemctl kill -s KILL --kill-whom=main slurmd; sleep 1; systemctl start slurmd",
}

// everywhere are scripts on the head node, each with its own end.
var everywhere = map[Blow]string{
	KillSlurmctld: "systemctl kill -s KILL --kill-whom=main slurmctld; sleep 2; systemctl start slurmctld; timeout 120 sh -c 'until timeout 5 scontrol ping | grep -q UP; do sleep 1; done'",
	KillKMS:       "systemctl kill -s KILL cloister-kms; systemctl stop cloister-kms; sleep 5; systemctl start cloister-kms",
	HangFiles:     "nft 'add table inet soak; add chain inet soak in { type filter hook input priority 0; }; add rule inet soak in tcp dport 2049 drop'; sleep 15; nft delete table inet soak",
}

// befall waits for the plan's moment and does what it says. It returns how many
// records were on disk just before, as far as the node could tell.
func (l *lane) befall(ctx context.Context, p Plan, job uint32) (least int, err error) {
	if p.Blow == Nothing || p.Blow == ExitStatus {
		return 0, nil
	}
	wait := fmt.Sprintf(untilRecord, waiting, job, l.who, p.After)
	if p.Blow.early() {
		wait = fmt.Sprintf(untilSession, waiting)
	}
	was, err := l.Output(ctx, l.node, wait, cluster.Timeout(2*patience))
	if err != nil {
		return 0, err
	}
	if p.Blow.early() {
		if err := pause(ctx, p.Delay); err != nil {
			return 0, err
		}
	}
	// pgrep says 1 if there is none.
	is, err := l.Run(ctx, l.node, "pgrep -u "+l.who+" -a -x sleep")
	if err != nil {
		return 0, err
	}
	least = synced(was + is.Stdout)
	l.say("%s, with %d records on disk", p.Blow, least)
	return least, l.strike(ctx, p.Blow, job)
}

func (l *lane) strike(ctx context.Context, b Blow, job uint32) error {
	if script, ok := everywhere[b]; ok {
		return l.shake(ctx, script)
	}
	switch b {
	case Cancel, CancelEarly:
		return l.onHead(ctx, fmt.Sprintf("scancel %d", job))
	case TimeLimit:
		return l.onHead(ctx, fmt.Sprintf("scontrol update jobid=%d timelimit=1", job))
	case PowerCut:
		if err := l.PowerCut(l.node); err != nil {
			return err
		}
		return l.Restart(ctx, l.node)
	case Reboot:
		return l.reboot(ctx)
	}
	script := strikes[b]
	if strings.Contains(script, "%d") {
		script = fmt.Sprintf(script, job)
	}
	_, err := l.Output(ctx, l.node, script)
	return err
}

// onHead retries: the other lane may have killed slurmctld. Of a job that is over
// already, judge will tell.
func (l *lane) onHead(ctx context.Context, script string) (err error) {
	for range 10 {
		if _, err = l.Output(ctx, cluster.Head, "timeout 60 "+script); err == nil || strings.Contains(err.Error(), "already finished") {
			return nil
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	return err
}

// shake does something to the whole cluster, one at a time.
func (l *lane) shake(ctx context.Context, script string) error {
	l.shaking.Lock()
	defer l.shaking.Unlock()
	l.noteShaken()
	defer l.noteShaken()
	_, err := l.Output(ctx, cluster.Head, script)
	return err
}

func (l *lane) noteShaken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shook = append(l.shook, time.Now())
}

// shaken says whether something befell the cluster since t.
func (l *lane) shaken(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.shook, t.Before)
}

// reboot is an administrator's, in order.
func (l *lane) reboot(ctx context.Context) error {
	if _, err := l.Output(ctx, l.node, "systemd-run -q --on-active=1 systemctl reboot"); err != nil {
		return err
	}
	down, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := l.AwaitOff(down, l.node); err != nil {
		l.fault("%v", err)
	}
	return l.Restart(ctx, l.node)
}

// judge compares a job's end with what befell it.
func (l *lane) judge(p Plan, e deploy.Ended, began time.Time, least int) {
	c := l.counts[p.Blow]
	if c == nil {
		c = &count{ends: map[string]int{}}
		l.counts[p.Blow] = c
	}
	c.jobs++
	c.records += least
	c.ends[e.State]++
	said := strings.TrimSpace(e.Output)
	l.say("job %d is %s %s", p.Number, e.State, e.ExitCode)
	if slices.Contains(p.Blow.ends(), e.State) {
		return
	}
	if l.shaken(began) && slices.Contains([]string{"FAILED", "CANCELLED", "NODE_FAIL", "COMPLETED"}, e.State) {
		return // the key server, the controller or the file server was away
	}
	l.fault("after %s job %d is %s %s, not %s: %q", p.Blow, p.Number, e.State, e.ExitCode, strings.Join(p.Blow.ends(), " or "), said)
}
