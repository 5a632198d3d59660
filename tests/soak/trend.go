package soak

import (
	"fmt"
	"io"
	"math"
	"time"
)

// A life is what one noded was after each job.
type life []sample

// lives parts samples where noded started anew.
func lives(all []sample) (parts []life) {
	for i, s := range all {
		if i == 0 || !s.since.Equal(all[i-1].since) {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], s)
	}
	return parts
}

// longest is the life with most jobs.
func longest(all []sample) (best life) {
	for _, l := range lives(all) {
		if len(l) > len(best) {
			best = l
		}
	}
	return best
}

const (
	// settling is how many jobs noded's heap takes to its size.
	settling = 5
	// enough is how many there must be besides for a trend to be told.
	enough = 8
	// certain is how many standard errors are no chance.
	certain = 3
)

// A measure of noded that sessions must not have grow.
type measure struct {
	name, unit string
	of         func(sample) float64
	// rise is what a life may gain by rounding and by the moment that it is looked at.
	rise float64
}

var measures = []measure{
	{"resident memory", "kB", func(s sample) float64 { return float64(s.resident) / 1e3 }, 1000},
	{"descriptors", "", func(s sample) float64 { return float64(s.fds) }, 2},
	{"goroutines", "", func(s sample) float64 { return float64(s.routines) }, 2},
}

// A fit is a straight line through a measure, by least squares.
type fit struct {
	slope, deviation float64 // a session, and the slope's standard error
	sessions         float64
}

// fitted leaves out the first jobs. There is none through too few, nor without
// sessions.
func (m measure) fitted(l life) (f fit, ok bool) {
	if len(l) < settling+enough {
		return f, false
	}
	l = l[settling:]
	n := float64(len(l))
	var meanX, meanY, xx, xy, rest float64
	for _, s := range l {
		meanX += float64(s.sessions) / n
		meanY += m.of(s) / n
	}
	for _, s := range l {
		x, y := float64(s.sessions)-meanX, m.of(s)-meanY
		xx += x * x
		xy += x * y
	}
	if xx == 0 {
		return f, false
	}
	f.slope, f.sessions = xy/xx, float64(l[len(l)-1].sessions-l[0].sessions)
	for _, s := range l {
		off := m.of(s) - meanY - f.slope*(float64(s.sessions)-meanX)
		rest += off * off
	}
	f.deviation = math.Sqrt(rest / (n - 2) / xx)
	return f, true
}

// grows says that it is neither chance nor rounding.
func (m measure) grows(f fit) bool {
	return f.slope > certain*f.deviation && f.slope*f.sessions > m.rise
}

func (m measure) String(f fit) string {
	return fmt.Sprintf("%s %+.2f ± %.2f %s a session over %.0f sessions", m.name, f.slope, f.deviation, m.unit, f.sessions)
}

// rows is how many lines a life is told in.
const rows = 12

// tell prints a life.
func (l life) tell(out io.Writer) {
	fmt.Fprintf(out, "  %8s %8s %8s %12s %11s\n", "sessions", "time", "MB", "descriptors", "goroutines")
	for i, s := range l {
		if step := (len(l) + rows - 1) / rows; i%step == 0 || i == len(l)-1 {
			fmt.Fprintf(out, "  %8d %8s %8.1f %12d %11d\n", s.sessions, s.at.Round(time.Second), float64(s.resident)/1e6, s.fds, s.routines)
		}
	}
	for _, m := range measures {
		if f, ok := m.fitted(l); ok {
			fmt.Fprintf(out, "  %s\n", m.String(f))
		}
	}
}
