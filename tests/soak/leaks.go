package soak

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister/noded/audit"
)

// budget is noded's resident memory at most, in bytes (the design's 30 MB).
const budget = 30e6

// spares is longer than noded takes to begin with helpers for the next session
// (package helper).
const spares = 20 * time.Second

// A survey is what there is of what sessions make, by kind.
type survey map[string][]string

// look lists it, a kind and a thing in each line. Of keyrings only those with a
// name that users gave count, of other keys not the one that systemd gives each
// service (systemd.exec(5), KeyringMode), of slices those that systemd does not
// make of a template; what is remembered of jobs and the records are looked at
// apart.
const look = `
losetup -l -n -O NAME | sed 's/^/loop /'
dmsetup ls 2>/dev/null | grep -v '^No devices' | sed 's/^/mapping /'
awk '{print "mount " $5}' /proc/1/mountinfo | grep -v -e /run/credentials -e /proc/sys/fs/binfmt_misc
lsns -n -r -o TYPE,COMMAND | grep -v 'slurmstepd.*infinity' | sed 's/^/namespace /'
ls -A /run/cloister | grep -v unsigned-step-since-boot | sed 's/^/runtime /'
find /run/systemd/system /run/systemd/system.control -type f 2>/dev/null | grep -v slurmstepd | sed 's/^/drop-in /'
nft list tables | sed 's/^/nftables /'
systemctl list-units -q --plain --no-legend -t scope,slice,socket | awk '$1 !~ /^system-/ {print "unit " $1}'
systemctl --failed -q --plain --no-legend | awk '{print "failed " $1}'
pgrep -u alice,bob,carol -a | sed 's/^/process /'
ipcs -m -q -s | grep '^0x' | sed 's/^/IPC /'
awk '$9 != "invocation_id:" && ($8 != "keyring" || $9 !~ /^[_.]/) {print "key " $8 " " $9}' /proc/keys
find /var/lib/cloister -type f ! -path '*/jobs/[0-9a-f]*' ! -path '*/audit/records-*.jsonl' | sed 's/^/state /'
ls -A /dev/shm | sed 's/^/shm /'
true`

func (l *lane) surveyed(ctx context.Context) (survey, error) {
	out, err := l.Output(ctx, l.node, look)
	s := survey{}
	for line := range strings.Lines(out) {
		kind, thing, _ := strings.Cut(strings.TrimSpace(line), " ")
		s[kind] = append(s[kind], thing)
	}
	return s, err
}

// more lists what a survey has that an earlier one has not.
func (s survey) more(than survey) (all []string) {
	for kind, things := range s {
		was := slices.Clone(than[kind])
		for _, t := range things {
			if i := slices.Index(was, t); i >= 0 {
				was = slices.Delete(was, i, i+1)
			} else {
				all = append(all, kind+" "+t)
			}
		}
	}
	slices.Sort(all)
	return all
}

// A sample is noded between two jobs.
type sample struct {
	at time.Duration // since the soak began
	// since is when this noded started, sessions how many it has ended.
	since    time.Time
	sessions uint64

	resident, fds, routines int64
}

// sample looks at noded between two jobs.
func (l *lane) sample(ctx context.Context) error {
	st, _, err := l.Status(ctx, l.node)
	if err != nil {
		return err
	}
	out, err := l.Output(ctx, l.node, `p=$(systemctl show -P MainPID cloister-noded)
awk '/^VmRSS/{print $2}' /proc/$p/status; ls /proc/$p/fd | wc -l`)
	if err != nil {
		return err
	}
	s := sample{at: time.Since(l.began), since: st.Since, sessions: st.Events[string(audit.Released)], routines: int64(st.Goroutines)}
	if _, err := fmt.Sscan(out, &s.resident, &s.fds); err != nil {
		return fmt.Errorf("asking for noded's use of the node: %q: %w", out, err)
	}
	s.resident <<= 10 // VmRSS is in kB of 1024 bytes, proc_pid_status(5)
	l.samples = append(l.samples, s)
	return nil
}

// rest waits until noded is ready for the next session, and looks at it.
func (l *lane) rest(ctx context.Context) error {
	if err := pause(ctx, spares); err != nil {
		return err
	}
	l.samples = l.samples[:max(0, len(l.samples)-1)] // it was busy then
	return l.sample(ctx)
}

// leftovers looks for what the sessions left on the node and in noded.
func (l *lane) leftovers(ctx context.Context) error {
	if l.usual == nil {
		return nil // there was not one session
	}
	if err := l.rest(ctx); err != nil {
		return err
	}
	is, err := l.surveyed(ctx)
	if err != nil {
		return err
	}
	if more := is.more(l.usual); len(more) > 0 {
		l.fault("left over on the node: %s", strings.Join(more, "; "))
	}
	first, last := l.rested, l.samples[len(l.samples)-1]
	if last.resident > budget {
		l.fault("noded has %.1f MB", float64(last.resident)/1e6)
	}
	if last.fds > first.fds {
		l.fault("noded had %d descriptors after its first session and has %d", first.fds, last.fds)
	}
	if last.routines > first.routines {
		l.fault("noded had %d goroutines after its first session and has %d", first.routines, last.routines)
	}
	for _, life := range lives(l.samples) {
		for _, m := range measures {
			if f, ok := m.fitted(life); ok && m.grows(f) {
				l.fault("noded grows: %s", m.String(f))
			}
		}
	}
	// Of each job its name, and that its keys were asked for, until it expires.
	if kept, err := l.Output(ctx, l.node, "ls -A /var/lib/cloister/jobs | wc -l"); err != nil {
		return err
	} else if n, err := strconv.Atoi(strings.TrimSpace(kept)); err != nil || n > 2*l.sessions {
		l.fault("%s files remember %d jobs", strings.TrimSpace(kept), l.sessions)
	}
	if r, err := l.Run(ctx, l.node, "cloister audit verify"); err != nil {
		return err
	} else if r.Exit != 0 {
		l.fault("cloister audit verify: exit status %d: %s", r.Exit, strings.TrimSpace(r.Stdout+r.Stderr))
	} else {
		l.say("cloister audit verify: %s", strings.TrimSpace(r.Stdout))
	}
	return nil
}
