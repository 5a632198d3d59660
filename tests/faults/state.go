package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
	"cloister/tests/faults/call"
)

// Each program that is started keeps an emulated guest busy for a tenth of a
// second and more. So the guests wait by themselves, and are asked all at once.

// ended waits until Slurm says that the job is over: for a line of slurmctld's
// log, which costs nothing, and then, or after a while, for scontrol.
func (b *Bench) ended(ctx context.Context, id uint32, o *Outcome) error {
	wait := fmt.Sprintf(`timeout 40 bash -c 'grep -q -m 1 " JobId=%d done" < <(exec tail -n 1000 -F /var/log/slurm/slurmctld.log 2>/dev/null)'
for i in $(seq 15); do
	s=$(timeout 30 scontrol -o show job %[1]d)
	case $s in
	*JobState=PENDING*|*JobState=CONFIGURING*|*JobState=RUNNING*|*JobState=COMPLETING*) sleep 0.7;;
	*) break;;
	esac
done
echo "$s"
cat %[2]s/slurm-%[1]d.out 2>/dev/null || true`, id, deploy.Home(who))
	for deadline := time.Now().Add(jobLimit); ; {
		said, err := b.site.Output(ctx, cluster.Head, wait)
		if err != nil {
			return err
		}
		job, output, _ := strings.Cut(said, "\n")
		if m := jobState.FindStringSubmatch(job); m != nil {
			o.Job = m[1]
		}
		switch o.Job {
		case "COMPLETED", "CANCELLED":
			return nil
		case "FAILED":
			if !strings.Contains(output, "cloister") {
				o.bad("the job failed, and its output file says nothing of why: %q", output)
			}
			return nil
		case "PENDING", "RUNNING", "COMPLETING", "CONFIGURING":
		default:
			o.bad("the job is %s", o.Job)
			return nil
		}
		if time.Now().After(deadline) {
			o.bad("the job is still %s", o.Job)
			return nil
		}
	}
}

var jobState = regexp.MustCompile(`\bJobState=(\S*)`)

// A state is what the node and Slurm say.
type state struct {
	over, fenced bool
	said         string // what is missing to that it is over
	trace        call.Trace
}

// settled waits until nothing happens on the node any more, and says how it is.
// A call that is held is let go once noded has been done without it for a while:
// later than all that waited for it. Who made it gets a while, too, to be done.
func (b *Bench) settled(ctx context.Context, o *Outcome) error {
	var since, held time.Time // since when it is over, and when a call was last seen to be held
	for deadline := time.Now().Add(hold + settleLimit); ; {
		s, err := b.state(ctx)
		if err != nil {
			return err
		}
		o.Fired, o.Fenced = s.trace.Fired, s.fenced
		if s.trace.Holding {
			held = time.Now()
		}
		switch {
		case !s.over:
			since = time.Time{}
		case !s.trace.Holding:
			if time.Since(held) > quiet {
				return nil
			}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > quiet:
			if _, err := b.site.Output(ctx, node, tracerPath+" release"); err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			o.bad("the node is neither clean nor fenced: %s", s.said)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// state looks whether the node is clean and idle, or fenced and drained.
func (b *Bench) state(ctx context.Context) (s state, err error) {
	asked := make(chan error, 1)
	var slurm string
	go func() {
		said, err := b.site.Output(ctx, cluster.Head, askSlurm)
		slurm = strings.TrimSpace(said)
		asked <- err
	}()
	said, err := b.site.Output(ctx, node, askNode)
	if err := errors.Join(err, <-asked); err != nil {
		return s, err
	}
	part := strings.Split(said, mark)
	if len(part) != 4 {
		return s, fmt.Errorf("the node says %q", said)
	}
	// Asked last: what is held would still change the node.
	if err := json.Unmarshal([]byte(part[3]), &s.trace); err != nil {
		return s, fmt.Errorf("the tracer's answer: %w", err)
	}
	if s.trace.Lost != "" {
		return s, errors.New("the tracer lost sight of noded: " + s.trace.Lost)
	}
	st, err := status.Parse([]byte(part[0]))
	switch {
	case err != nil: // noded starts anew, or is stuck
		s.said = err.Error()
	case st.State == status.Fenced:
		s.fenced, s.over = true, strings.HasPrefix(slurm, "drained cloister: ")
		s.said = "fenced (" + st.Fence.Detail + "), in Slurm: " + slurm
	case st.Session != nil || st.State != status.InService || !strings.HasPrefix(slurm, "idle"):
		s.said = fmt.Sprintf("%s, session %+v, faults %q, in Slurm: %s", st.State, st.Session, st.Faults, slurm)
	default:
		s.said = part[1]
		if part[2] != b.usual {
			s.said += "not as before: " + difference(b.usual, part[2])
		}
		s.over = s.said == ""
	}
	return s, nil
}

// mark stands between the answers to several questions.
const mark = "=====\n"

// askNode waits while a session has the node. The last answer is to what a
// session changes and must change back, but for what deploy.ListTraces lists.
const askNode = `bash -c 'exec 9<> <(:) # nothing ever comes from it
for i in {1..40}; do
	[ ! -e /run/cloister/fenced.json ] || break
	set -- /run/cloister/sessions/*.json
	[ -e "$1" ] || break
	read -r -t 0.5 -u 9
done'
if ! cloister node status --json; then
	printf '` + markLine + markLine + `'
else
	printf '` + markLine + `'
	{ ` + deploy.ListTraces + `
	}
	printf '` + markLine + `'
	` + configuration + `
fi
printf '` + markLine + `'
` + tracerPath + ` state`

const (
	markLine      = `=====\n`
	configuration = `find /run/systemd/system /run/systemd/system.control /etc/systemd/system 2>/dev/null | grep -v slurmstepd | sort
	systemctl is-active ssh.service ssh.socket slurmd.service cloister-noded.socket
	nft list tables; ls -A /run/cloister`

	askSlurm = `for i in $(seq 10); do
	s=$(timeout 30 sinfo -h -N -o '%T %E' -n ` + node + ` | head -n 1)
	case $s in
	idle*|drained*) break;;
	esac
	sleep 1
done
echo "$s"`
)

// difference lists the lines that one text has and the other has not.
func difference(before, after string) string {
	var lines []string
	count := map[string]int{}
	for line := range strings.Lines(before) {
		count[line]--
	}
	for line := range strings.Lines(after) {
		count[line]++
	}
	for line, n := range count {
		if n != 0 {
			lines = append(lines, fmt.Sprintf("%+d %s", n, strings.TrimSpace(line)))
		}
	}
	return strings.Join(lines, ", ")
}
