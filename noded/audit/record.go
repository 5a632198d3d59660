// Package audit keeps a node's records: one line for each decision and each
// step of a session, in an append-only file whose lines are chained by their
// hashes. Verify finds a record that was changed, removed, moved or put in.
//
// It is for whoever must answer later what a node did. It does not protect
// against root on the node itself, who can write the whole chain anew: what
// that takes away is only shown by a head (number and hash of the last record)
// that was noted somewhere else, which is why the journal and
// "cloister node status" show it. It signs nothing and has no key.
//
// No field can hold a secret: they are words, numbers and one line of text that
// the daemon has said to the journal before.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// An Event is what a record is of.
type Event string

// The events of a node, of a job, and of the file itself.
const (
	NodeStarted Event = "node-started" // noded serves from here on
	NodeStopped Event = "node-stopped" // noded ends; a job that runs goes on
	Fenced      Event = "fenced"       // the node was given up
	Recovered   Event = "recovered"    // somebody asked to take it back

	Refused  Event = "refused"  // a launch that was not let run
	Admitted Event = "admitted" // a sealed job that may run
	Done     Event = "done"     // a step of its session
	Running  Event = "running"  // its script begins
	Joined   Event = "joined"   // one of its job steps was let in
	Adopted  Event = "adopted"  // noded was restarted and goes on with it
	Ended    Event = "ended"    // its script is over
	Undone   Event = "undone"   // a step of its session was taken back
	Released Event = "released" // nothing of it is left

	Trouble Event = "incident" // what an attacker, or an accident, could have done

	Begun  Event = "file"   // a file begins; what was counted so far
	Torn   Event = "torn"   // the bytes before this are what a crash left of records
	Pruned Event = "pruned" // old files were removed to make room
)

// An Outcome is how a decision or a step went.
type Outcome string

// The outcomes.
const (
	OK     Outcome = "ok"
	Failed Outcome = "failed"
)

// An Entry is what a record says. Empty fields are left out.
type Entry struct {
	Event    Event    `json:"event"`
	Incident Incident `json:"incident,omitempty"`
	// Session is the sealed job's id, 32 hexadecimal digits.
	Session string `json:"session,omitempty"`
	// Job and Step are Slurm's numbers. A batch script has no Step.
	Job  uint32  `json:"job,omitempty"`
	Step *uint32 `json:"step,omitempty"`
	// Task is the job's in its array, Attempt how often it was requeued before:
	// the run of the sealed job.
	Task    *uint32 `json:"task,omitempty"`
	Attempt uint32  `json:"attempt,omitempty"`
	// UID and User are of the job's owner.
	UID  *uint32 `json:"uid,omitempty"`
	User string  `json:"user,omitempty"`
	// Phase is the step of the session.
	Phase   string  `json:"phase,omitempty"`
	Outcome Outcome `json:"outcome,omitempty"`
	// Took is in milliseconds.
	Took float64 `json:"took_ms,omitempty"`
	// Detail is the reason or what was found, one line.
	Detail string `json:"detail,omitempty"`
	// More counts like ones that came too fast to have a record each.
	More uint64 `json:"more,omitempty"`

	Begin *Begin `json:"begin,omitempty"`
	Tear  *Bytes `json:"tear,omitempty"`
	Prune *Head  `json:"prune,omitempty"`
}

// Begin is how a file begins.
type Begin struct {
	Format    int      `json:"format"`
	Node      string   `json:"node"`
	Version   string   `json:"version"`
	Incidents Counters `json:"incidents"`
}

// Bytes names bytes that are no record.
type Bytes struct {
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// A Record is one line of the file: an entry in its place.
type Record struct {
	// Seq counts from 1, over all files.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"` // UTC
	// Boot is the kernel's boot id, 32 hexadecimal digits.
	Boot string `json:"boot"`
	// Prev is the hash of the record before.
	Prev string `json:"prev"`
	Entry
}

// Format is the only form of files that there is.
const Format = 1

// maxLine bounds a line in bytes, maxText one of its texts: a real line has
// about 500.
const (
	maxLine = 16 << 10
	maxText = 1 << 10
)

// none is what the first record has for the hash of the one before.
var none = strings.Repeat("0", 2*sha256.Size)

// A line is the record's JSON with its own hash as the last member: the SHA-256
// (FIPS 180-4) of everything before that member.
const (
	hashMember = `,"hash":"`
	lineEnd    = `"}`
	tailLen    = len(hashMember) + 2*sha256.Size + len(lineEnd)
)

// encode returns the line, without a line feed, and its hash.
func (r *Record) encode() (line []byte, hash string, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, "", fmt.Errorf("writing a record: %w", err)
	}
	b = b[:len(b)-1]
	hash = sum(b)
	line = append(b, hashMember+hash+lineEnd...)
	if len(line) > maxLine {
		return nil, "", fmt.Errorf("writing a record: %d bytes, more than %d", len(line), maxLine)
	}
	return line, hash, nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// errHash says that a line is a record's but for its hash.
var errHash = errors.New("its contents are not those that its hash was made of")

// parse reads a line as encode writes it and no other.
func parse(line []byte) (*Record, string, error) {
	if len(line) > maxLine {
		return nil, "", fmt.Errorf("%d bytes, more than %d", len(line), maxLine)
	}
	if len(line) <= tailLen {
		return nil, "", errors.New("too short for a record")
	}
	body, tail := line[:len(line)-tailLen], string(line[len(line)-tailLen:])
	hash := tail[len(hashMember) : len(tail)-len(lineEnd)]
	if !strings.HasPrefix(tail, hashMember) || !strings.HasSuffix(tail, lineEnd) || !isHash(hash) {
		return nil, "", errors.New("it does not end with its hash")
	}
	if sum(body) != hash {
		return nil, hash, errHash
	}
	d := json.NewDecoder(io.MultiReader(bytes.NewReader(body), strings.NewReader("}")))
	d.DisallowUnknownFields()
	var r Record
	if err := d.Decode(&r); err != nil {
		return nil, hash, fmt.Errorf("not a record: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, hash, err
	}
	// One encoding only: no member twice, none in capitals, no spaces.
	if again, _, err := r.encode(); err != nil || !bytes.Equal(again, line) {
		return nil, hash, errors.New("not in the one form that records have")
	}
	return &r, hash, nil
}

func (r *Record) check() error {
	switch {
	case r.Seq == 0:
		return errors.New("record number 0")
	case !isHash(r.Prev):
		return errors.New("no hash of the record before")
	case (r.Event == Begun) != (r.Begin != nil) || (r.Event == Torn) != (r.Tear != nil) || (r.Event == Pruned) != (r.Prune != nil):
		return fmt.Errorf("event %.40q has the wrong members", r.Event)
	case r.Begin != nil && r.Begin.Format != Format:
		return fmt.Errorf("format %d, only %d is known", r.Begin.Format, Format)
	case (r.Event == Trouble) != (r.Incident != ""):
		return fmt.Errorf("event %.40q with incident %.40q", r.Event, r.Incident)
	}
	return nil
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && strings.ToLower(s) == s
}

// tidy makes texts fit for one line of a log: whole UTF-8, no control
// characters, at most maxText bytes.
func (e *Entry) tidy() {
	for _, s := range []*string{&e.User, &e.Phase, &e.Session, &e.Detail} {
		*s = strings.Map(func(r rune) rune {
			if r == '\n' || r == '\t' {
				return ' '
			}
			if r < ' ' || r == 0x7f || r == utf8.RuneError {
				return '?'
			}
			return r
		}, *s)
		if len(*s) > maxText {
			*s = strings.ToValidUTF8((*s)[:maxText-len("…")], "") + "…"
		}
	}
}

// A Head names the last record of a chain and, with it, all before.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// String is the form that ParseHead reads: NUMBER:HASH.
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Seq, h.Hash) }

// ParseHead reads what String wrote.
func ParseHead(s string) (Head, error) {
	var h Head
	_, hash, _ := strings.Cut(s, ":")
	if _, err := fmt.Sscanf(s, "%d:", &h.Seq); err != nil || h.Seq == 0 || !isHash(hash) {
		return h, fmt.Errorf("%.100q is not a head: NUMBER:HASH", s)
	}
	h.Hash = hash
	if h.String() != s {
		return h, fmt.Errorf("%.100q is not a head: NUMBER:HASH", s)
	}
	return h, nil
}
