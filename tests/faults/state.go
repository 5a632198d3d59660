package faults

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/faults/call"
)

// settled waits until nothing happens on the node any more, and says how it is.
func (b *Bench) settled(ctx context.Context, o *Outcome) (trace call.Trace, err error) {
	for deadline := time.Now().Add(hold + settleLimit); ; {
		over, fenced, said, err := b.state(ctx)
		if err != nil {
			return trace, err
		}
		// Asked last: what is held would still change the node.
		if trace, err = b.traced(ctx); err != nil {
			return trace, err
		}
		if o.Fenced = fenced; over && !trace.Holding {
			return trace, nil
		}
		if time.Now().After(deadline) {
			o.bad("the node is neither clean nor fenced: %s", said)
			return trace, nil
		}
		if err := pause(ctx); err != nil {
			return trace, err
		}
	}
}

// state looks whether the node is clean and idle, or fenced and drained, and
// says what is missing to that.
func (b *Bench) state(ctx context.Context) (over, fenced bool, said string, err error) {
	st, _, err := b.site.Status(ctx, node)
	if err != nil {
		return false, false, err.Error(), nil // noded starts anew, or is stuck
	}
	slurm, err := b.site.Output(ctx, cluster.Head, "timeout 30 sinfo -h -N -o '%T %E' -n "+node)
	if err != nil {
		return false, false, "", err
	}
	slurm, _, _ = strings.Cut(strings.TrimSpace(slurm), "\n")
	if st.State == status.Fenced {
		return strings.HasPrefix(slurm, "drained cloister: "), true, "fenced (" + st.Fence.Detail + "), in Slurm: " + slurm, nil
	}
	if st.Session != nil || st.State != status.InService || !strings.HasPrefix(slurm, "idle") {
		return false, false, fmt.Sprintf("%s, session %+v, faults %q, in Slurm: %s", st.State, st.Session, st.Faults, slurm), nil
	}
	left, err := b.site.Traces(ctx, node)
	if err != nil {
		return false, false, "", err
	}
	is, err := b.configuration(ctx)
	if err != nil {
		return false, false, "", err
	}
	if is != b.usual {
		left += "not as before: " + difference(b.usual, is)
	}
	return left == "", false, left, nil
}

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

// configuration is what a session changes of a node and must change back, but
// for what deploy.Traces lists.
func (b *Bench) configuration(ctx context.Context) (string, error) {
	return b.site.Output(ctx, node, configuration)
}

const configuration = `find /run/systemd/system /run/systemd/system.control /etc/systemd/system 2>/dev/null | grep -v slurmstepd | sort
systemctl is-active ssh.service ssh.socket slurmd.service cloister-noded.socket
nft list tables; ls -A /run/cloister`

// pause is long: each question keeps an emulated node busy for half a second.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Second):
		return nil
	}
}
