package audit

import (
	"fmt"
	"os"
	"path/filepath"
)

// A Report is what Verify found.
type Report struct {
	Files   int
	Records uint64
	// First and Last are the numbers of the records; Head is the last one's.
	First, Last uint64
	Head        Head
	// Before says what was removed to make room, "" if the chain is whole.
	Before string
	// Incidents are counted as the last file does.
	Incidents Counters
	// Faults say which records were changed, removed, moved or put in.
	Faults []string
	// Notes are for a reader to know, and no fault.
	Notes []string
}

// maxFaults bounds how many faults are listed: one change breaks the chain
// once, and nobody reads a thousand.
const maxFaults = 20

// Verify checks the chain of a directory, or of one file alone. noted, if it
// is not nil, is a head that was noted before: the chain must still hold that
// record. An error means that the records could not be read.
func Verify(path string, noted *Head) (*Report, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	names := []string{path}
	if info.IsDir() {
		if names, err = files(path); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("reading the records: there are none in %s: %w", path, os.ErrNotExist)
		}
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading the records: %s is no file", path)
	}
	v := verifier{Report: Report{Files: len(names), Incidents: Counters{}}, alone: !info.IsDir(), present: map[uint64]link{}}
	for i, name := range names {
		b, err := readFile(name)
		if err != nil {
			return nil, err
		}
		v.take(name, b, i == len(names)-1)
	}
	v.check()
	v.compare(noted)
	return &v.Report, nil
}

type verifier struct {
	Report
	alone   bool
	all     []link
	present map[uint64]link // the whole ones by number, the first of each
	tail    []byte
}

func (v *verifier) fault(format string, args ...any) {
	if len(v.Faults) == maxFaults {
		v.Faults = append(v.Faults, "there are more")
	}
	if len(v.Faults) < maxFaults {
		v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
	}
}

// take reads one file.
func (v *verifier) take(name string, b []byte, last bool) {
	p := scan(name, b)
	for _, k := range p.links {
		if k.broken == nil {
			if _, twice := v.present[k.Seq]; !twice {
				v.present[k.Seq] = k
			}
		}
	}
	v.all = append(v.all, p.links...)
	switch base := filepath.Base(name); {
	case len(p.tail) > 0 && last:
		v.tail = p.tail
	case len(p.tail) > 0:
		v.fault("the end of %s is no record, but another file follows", base)
	}
	if first := firstOf(name); first > 0 && len(p.links) > 0 && p.links[0].broken == nil && p.links[0].Seq != first {
		v.fault("%s begins with record %d: what was before it is gone, or the file was renamed", filepath.Base(name), p.links[0].Seq)
	}
}

// check walks along the chain.
func (v *verifier) check() {
	var at, whole Head // where the chain is, and the last record that could be read
	var removed []Head // up to where old records were dropped
	started := false
	for _, k := range v.all {
		where := fmt.Sprintf("%s, line %d", filepath.Base(k.file), k.line)
		if k.broken != nil {
			v.altered(k, whole, where)
			at = Head{at.Seq + 1, k.claim}
			continue
		}
		v.Records++
		switch {
		case !started:
			v.First = k.Seq
		case k.Seq == at.Seq+1 && k.Prev == at.Hash, k.Seq == whole.Seq+1 && k.Prev == whole.Hash:
		case k.Seq == at.Seq+1 && at.Hash == "":
			// After a broken line without a hash nothing can be said.
		case k.Seq == at.Seq+1:
			v.fault("record %d was changed or replaced: record %d was written after another (%s)", at.Seq, k.Seq, where)
		case k.Seq > at.Seq+1:
			v.gap(at.Seq+1, k.Seq-1, where)
		default:
			v.fault("record %d stands after record %d: moved, or put in (%s)", k.Seq, at.Seq, where)
			continue // the chain goes on where it was
		}
		started, at = true, Head{k.Seq, k.hash}
		whole = at
		if k.Prune != nil {
			removed = append(removed, *k.Prune)
		}
		v.tally(k.Record)
	}
	v.Head, v.Last = whole, whole.Seq
	if !started {
		v.fault("there is no whole record")
		return
	}
	v.beginning(removed)
	if len(v.tail) > 0 {
		v.note("after record %d come %d bytes that are no whole record: a write that a crash cut off, which noded marks when it starts, or one that is on its way now", whole.Seq, len(v.tail))
	}
}

func (v *verifier) note(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}

// altered reports a line that is no record, after the last one that is.
func (v *verifier) altered(k link, before Head, where string) {
	if before.Seq == 0 {
		v.fault("a record was changed, or a line put in: %v (%s)", k.broken, where)
		return
	}
	v.fault("a record after record %d was changed, or a line put in: %v (%s)", before.Seq, k.broken, where)
}

// gap reports numbers that are missing where they should be.
func (v *verifier) gap(from, to uint64, where string) {
	elsewhere := uint64(0)
	for seq := range v.present {
		if from <= seq && seq <= to {
			elsewhere++
		}
	}
	name := fmt.Sprintf("records %d to %d", from, to)
	if from == to {
		name = fmt.Sprintf("record %d", from)
	}
	switch missing := to - from + 1 - elsewhere; {
	case missing == 0:
		v.fault("%s not in place before %s: moved", name, where)
	case elsewhere > 0:
		v.fault("%s are not in their place before %s: %d removed, the others moved", name, where, missing)
	default:
		v.fault("%s removed before %s", name, where)
	}
}

func (v *verifier) tally(r *Record) {
	if r.Begin != nil {
		v.Incidents = Counters{}
		for i, c := range r.Begin.Incidents {
			v.Incidents[i] = c
		}
	}
	if r.Incident != "" {
		v.Incidents.add(r.Incident, 1+r.More)
	}
}

// beginning checks that what is before the first record was dropped by noded.
func (v *verifier) beginning(removed []Head) {
	first := v.present[v.First]
	before := Head{v.First - 1, first.Prev}
	switch {
	case before.Seq == 0 && before.Hash == none:
	case v.alone:
		v.note("it begins after record %s: check the directory, or compare with the end of the file before it", before)
	default:
		for _, h := range removed {
			if h == before {
				v.Before = fmt.Sprintf("records 1 to %d were dropped to make room, which record keeping says itself", before.Seq)
				return
			}
		}
		v.fault("records 1 to %d removed, and no record says that they were dropped to make room", before.Seq)
	}
}

// compare looks for a head that was noted earlier.
func (v *verifier) compare(noted *Head) {
	if noted == nil {
		return
	}
	k, ok := v.present[noted.Seq]
	switch {
	case noted.Seq > v.Last:
		v.fault("records %d to %d removed from the end: record %d was noted as the head", v.Last+1, noted.Seq, noted.Seq)
	case !ok && noted.Seq < v.First:
		v.fault("record %d, noted as the head, is older than what is here: it cannot be compared", noted.Seq)
	case !ok:
		v.fault("record %d, noted as the head, is not there", noted.Seq)
	case k.hash != noted.Hash:
		v.fault("record %d is not the one that was noted as the head: it, or one before it, was replaced", noted.Seq)
	}
}
