package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

const (
	who       = "alice"
	dataName  = "bench.luks"
	dataBytes = 8 << 20 // of the file in the volume for reading
	// resultsSize is the same for both sides: the volume that is made.
	resultsSize = "32M"
)

// A session is one secure job's, in seconds since noded read the request.
type session struct {
	admitted, started, first float64
	released                 float64 // since the job's end
	// What both went into, as noded says it.
	parts, releaseParts partList
}

// took is one part's time, 0 if the session had none.
func (l partList) took(part string) float64 {
	for _, p := range l {
		if p.name == part {
			return p.took
		}
	}
	return 0
}

type handOff struct {
	cloister []session
	hand     []byHand
}

// measureHandOff times sealed jobs and the script by hand by turns, after one
// of each that is not counted.
func (b *bench) measureHandOff(ctx context.Context) (h handOff, err error) {
	if err := b.MakeVolume(ctx, who, dataName, map[string]string{"data.txt": strings.Repeat("patients\n", dataBytes/9)}); err != nil {
		return h, err
	}
	if err := b.prepareByHand(ctx); err != nil {
		return h, err
	}
	for i := range 1 + handOffRuns {
		s, err := b.session(ctx, fmt.Sprintf("bench-%d", i))
		if err != nil {
			return h, err
		}
		hand, err := b.byHand(ctx)
		if err != nil {
			return h, err
		}
		if i > 0 {
			h.cloister, h.hand = append(h.cloister, s), append(h.hand, hand)
		}
	}
	return h, nil
}

// script is a sealed job with one volume of each kind, and what more lines say,
// that does body. The results are not authenticated, as
// what the script by hand makes is not.
func script(results, body string, more ...string) string {
	for i, line := range more {
		more[i] = "#CLOISTER " + line + "\n"
	}
	return `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=` + node + `
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=` + dataName + `:/data:ro
#CLOISTER volume=` + results + `:/results:rw,create,size=` + resultsSize + `,integrity=none
#CLOISTER output=/results/out.txt
` + strings.Join(more, "") + body
}

// session runs a sealed job whose first instruction tells the time.
func (b *bench) session(ctx context.Context, name string) (session, error) {
	s, _, err := b.timed(ctx, name, script(name+".luks", "echo \"$EPOCHREALTIME\"\ntest -s /data/data.txt\n"))
	return s, err
}

// timed runs a sealed job that prints times, the first of them at once, and
// returns them all.
func (b *bench) timed(ctx context.Context, name, script string) (session, []float64, error) {
	results := name + ".luks"
	if err := b.Seal(ctx, who, name, script); err != nil {
		return session{}, nil, err
	}
	over := b.watch(ctx)
	job, err := b.Submit(ctx, who, "--secure "+name+".sealed")
	if err != nil {
		return session{}, nil, err
	}
	if err := <-over; err != nil {
		return session{}, nil, err
	}
	end, err := b.Wait(ctx, who, job, 4*time.Minute)
	if err != nil {
		return session{}, nil, err
	}
	if end.State != "COMPLETED" {
		return session{}, nil, fmt.Errorf("sealed job %d is %s: %s", job, end.State, end.Output)
	}
	out, err := b.Results(ctx, who, results, "out.txt")
	if err != nil {
		return session{}, nil, err
	}
	var times []float64
	for word := range strings.FieldsSeq(out) {
		t, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return session{}, nil, fmt.Errorf("the sealed job's output: %w", err)
		}
		times = append(times, t)
	}
	if len(times) == 0 {
		return session{}, nil, errors.New("the sealed job printed nothing")
	}
	if err := b.idle(ctx); err != nil {
		return session{}, nil, err
	}
	logged, err := b.logged(ctx, job, times[0])
	return logged, times, err
}

// watch waits for the end of the next session without asking anybody: questions
// to Slurm would take the head node's processor, which the session needs for
// its files and keys. What is left is one program that waits on the node, as
// by-hand.sh has one too.
func (b *bench) watch(ctx context.Context) <-chan error {
	over := make(chan error, 1)
	go func() {
		_, err := b.Output(ctx, node, `exec bash -c '
exec 3< <(exec timeout 200 journalctl -q -u cloister-noded -o cat -f -n 0)
journal=$!
grep -m 1 -E "^refused|\"msg\":\"released\"" <&3
found=$?
kill $journal
exit $found'`)
		over <- err
	}()
	// journalctl must be there before the session is.
	time.Sleep(3 * time.Second)
	return over
}

// idle waits until the node takes the next job.
func (b *bench) idle(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(300 * time.Millisecond) {
		state, err := b.NodeState(ctx, node)
		if err != nil || state == "idle" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after its job node %s is %s, not idle", node, state)
		}
	}
}

// logged finds a session's times in noded's log. noded's clock and the job's
// are the node's.
func (b *bench) logged(ctx context.Context, job uint32, first float64) (s session, err error) {
	log, err := b.Output(ctx, node, "journalctl -q --no-pager -u cloister-noded -o cat")
	if err != nil {
		return s, err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(log) {
		var e struct {
			Msg   string   `json:"msg"`
			Job   uint32   `json:"job"`
			Time  float64  `json:"ts"`   // seconds since 1970
			Took  float64  `json:"took"` // seconds
			Parts partList `json:"parts"`
		}
		// Lines that are no JSON are systemd's.
		if json.Unmarshal([]byte(line), &e) != nil || e.Job != job {
			continue
		}
		seen[e.Msg] = true
		switch e.Msg {
		case "admitted":
			s.admitted = e.Took
		case "started":
			s.started = e.Took
			s.first = first - (e.Time - e.Took)
			s.parts = e.Parts
		case "released":
			s.released = e.Took
			s.releaseParts = e.Parts
		}
	}
	if !seen["admitted"] || !seen["started"] || !seen["released"] {
		return s, fmt.Errorf("noded's log does not tell of job %d's whole session: %v", job, seen)
	}
	if s.first < s.started {
		return s, errors.New("the job's first instruction was before noded let it start: the clock was changed")
	}
	return s, nil
}

// A partList is a JSON object of seconds, in its order.
type partList []step

func (p *partList) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil { // the brace
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var took float64
		if err := d.Decode(&took); err != nil {
			return err
		}
		*p = append(*p, step{fmt.Sprint(name), took})
	}
	return nil
}

// ruleset is the lock as nft prints it while a job runs, under another name.
func (b *bench) ruleset(ctx context.Context) (string, error) {
	const name = "bench-rules"
	// It lasts as long as nobody ends its sleep.
	if err := b.Seal(ctx, who, name, script(name+".luks", "sleep 1000 || true\n")); err != nil {
		return "", err
	}
	job, err := b.Submit(ctx, who, "--secure "+name+".sealed")
	if err != nil {
		return "", err
	}
	if err := b.Started(ctx, who, job, node); err != nil {
		return "", err
	}
	rules, err := b.Output(ctx, node, "nft list table inet cloister && pkill -x sleep -u "+who)
	if err != nil {
		return "", err
	}
	end, err := b.Wait(ctx, who, job, 4*time.Minute)
	if err != nil {
		return "", err
	}
	if end.State != "COMPLETED" {
		return "", fmt.Errorf("sealed job %d is %s: %s", job, end.State, end.Output)
	}
	return strings.Replace(rules, "table inet cloister", "table inet byhand", 1), b.idle(ctx)
}

// home is who's directory on the shared file system.
var home = deploy.Home(who)

var kmsAddress = cluster.Address(cluster.Head) + ":8200"
