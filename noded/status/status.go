// Package status is what a node daemon tells an administrator who asks on the
// node, and how it is asked: over a socket for root alone, or, as numbers for
// Prometheus, over another that is off by default.
//
// It holds nothing secret and can do two things only: ask that a node be tried
// again that was given up, and that its session be ended.
package status

import (
	"bytes"
	"cloister/noded/audit"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Format is the only form of Status that there is.
const Format = 1

// A State is whether a node serves.
type State string

// The states of a node.
const (
	InService State = "in-service"
	Fenced    State = "fenced" // given up; nothing is launched until it is recovered
	Unfit     State = "unfit"  // sealed jobs are refused until Faults are mended
)

// A Status is the node at one moment.
type Status struct {
	Format  int    `json:"format"`
	Node    string `json:"node"`
	Class   string `json:"class"`
	Cluster string `json:"cluster"`
	Version string `json:"version"`
	State   State  `json:"state"`
	// Since is when this noded started.
	Since time.Time `json:"since"`
	// Locked: the packet filter is in force and watched.
	Locked  bool     `json:"locked"`
	Session *Session `json:"session,omitempty"`
	Fence   *Fence   `json:"fence,omitempty"`
	// Faults are what cloister-noded --check says.
	Faults    []string   `json:"faults,omitempty"`
	Incidents []Incident `json:"incidents,omitempty"`
	// Head is the last record's (package audit), Records why none can be
	// written any more, "" if they can.
	Head    string `json:"head"`
	Records string `json:"records,omitempty"`
	// Events counts the records of this noded by their event.
	Events map[string]uint64 `json:"events,omitempty"`
	// Goroutines that noded has: as many as before, once a session is over.
	// Its memory and descriptors are in /proc for everyone who may ask.
	Goroutines int `json:"goroutines"`
}

// A Session is the secure job that has the node.
type Session struct {
	Job     uint32    `json:"job"`
	Session string    `json:"session,omitempty"`
	User    string    `json:"user,omitempty"`
	Since   time.Time `json:"since"`
	// Phase is the step that it is in: "run" while its script runs.
	Phase string `json:"phase"`
}

// A Fence says why a node was given up.
type Fence struct {
	Reason string    `json:"reason"`
	Detail string    `json:"detail"`
	Since  time.Time `json:"since"`
	// Drained: Slurm knows.
	Drained bool `json:"drained"`
}

// An Incident is a kind and how often it happened.
type Incident struct {
	Kind string `json:"kind"`
	What string `json:"what"`
	Boot uint64 `json:"boot"`
	All  uint64 `json:"all"`
}

// Count is what is counted of one kind of incident.
func (s *Status) Count(kind audit.Incident) Incident {
	for _, i := range s.Incidents {
		if i.Kind == string(kind) {
			return i
		}
	}
	return Incident{Kind: string(kind), What: kind.String()}
}

// A Line is one thing that a recovery did, and what was wrong with it.
type Line struct {
	What  string `json:"what"`
	Error string `json:"error,omitempty"`
}

// A Recovery is what a node answers to being tried again, or released.
type Recovery struct {
	Lines []Line `json:"lines"`
	// Recovered: the node serves again; after a release, it has no session.
	Recovered bool   `json:"recovered"`
	Next      string `json:"next,omitempty"`
}

// maxAnswer bounds an answer in bytes; a real one has a few KiB.
const maxAnswer = 256 << 10

// parse reads one JSON value, strictly.
func parse[T any](b []byte) (*T, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), maxAnswer)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var v T
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the answer")
	}
	return &v, nil
}

// Parse reads a Status as noded writes it.
func Parse(b []byte) (*Status, error) {
	s, err := parse[Status](b)
	if err != nil {
		return nil, fmt.Errorf("reading the node's status: %w", err)
	}
	if s.Format != Format {
		return nil, fmt.Errorf("reading the node's status: format %d, only %d is known", s.Format, Format)
	}
	switch s.State {
	case InService, Fenced, Unfit:
	default:
		return nil, fmt.Errorf("reading the node's status: state %.40q is unknown", s.State)
	}
	return s, nil
}

// Text is the status for a person.
func (s *Status) Text(now time.Time) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("node", "%s, %s, cluster %s", s.Node, s.Class, s.Cluster)
	line("state", "%s", s.summary())
	if s.Locked {
		line("lock", "in force and watched")
	} else {
		line("lock", "none")
	}
	if j := s.Session; j != nil {
		who := ""
		if j.User != "" {
			who = " of " + j.User
		}
		line("session", "job %d%s, for %s, phase %s", j.Job, who, ago(now, j.Since), j.Phase)
	} else {
		line("session", "none")
	}
	if f := s.Fence; f != nil {
		line("fenced", "%s ago: %s", ago(now, f.Since), f.Reason)
		line("", "%s", f.Detail)
		if !f.Drained {
			line("", "Slurm does not know yet: it could not be reached, and is tried again")
		}
	}
	for _, f := range s.Faults {
		line("fault", "%s", f)
	}
	if len(s.Incidents) == 0 {
		line("incidents", "none")
	}
	for i, c := range s.Incidents {
		name := ""
		if i == 0 {
			name = "incidents"
		}
		line(name, "%d since boot, %d in all: %s (%s)", c.Boot, c.All, c.What, c.Kind)
	}
	line("records", "head %s", s.Head)
	if s.Records != "" {
		line("", "cannot be kept: %s", s.Records)
	}
	line("noded", "%s, for %s", s.Version, ago(now, s.Since))
	return b.String()
}

func (s *Status) summary() string {
	switch s.State {
	case Fenced:
		return "fenced: out of service, nothing is launched here"
	case Unfit:
		return "unfit: sealed jobs are refused"
	}
	return "in service"
}

// Next is what to do, "" if nothing is.
func (s *Status) Next() string {
	switch s.State {
	case Fenced:
		return "mend what the reason above says (journalctl -u cloister-noded tells more), then: cloister node recover; a reboot cleans the node too, and needs the same command after it"
	case Unfit:
		return "mend the faults above; the node then serves at once"
	}
	return ""
}

// printable keeps what others chose from writing to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "\n", "; "))
}

func ago(now, then time.Time) string { return max(now.Sub(then), 0).Round(time.Second).String() }
