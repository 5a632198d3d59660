package volume

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// A Holder is a node's note on the file of a volume that it has open for
// writing: who has it, for the people who find it in use.
//
// It is an extended attribute of the file, so whoever can write the file can
// write it. Nothing depends on it: the lock alone decides whether a volume is
// in use, and a note without a lock is left from a crash and says nothing.
type Holder struct {
	Node  string    // as Slurm names it
	Job   uint32    // Slurm's number
	Since time.Time // shown to the minute, in UTC
}

// String is for people: "job 17 on node s2 has it since 2026-11-25 10:04 UTC".
func (h Holder) String() string {
	return fmt.Sprintf("job %d on node %s has it since %s UTC", h.Job, h.Node, h.Since.UTC().Format("2006-01-02 15:04"))
}

const (
	holderName   = "user.cloister.holder"
	holderFormat = "1 %s %d %s"
	// maxHolder is the longest note, in bytes: a node's name has at most 64
	// (HOST_NAME_MAX of limits.h).
	maxHolder = 128
)

// holderNote is everything that a note may be: printable, and short.
var holderNote = regexp.MustCompile(`^1 ([A-Za-z0-9][A-Za-z0-9._-]{0,63}) ([1-9][0-9]{0,9}) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$`)

// encode is the note: format, node, job, time.
func (h Holder) encode() string {
	return fmt.Sprintf(holderFormat, h.Node, h.Job, h.Since.UTC().Format(time.RFC3339))
}

// parseHolder reads what encode writes and nothing else.
func parseHolder(note []byte) (Holder, bool) {
	if len(note) > maxHolder {
		return Holder{}, false
	}
	f := holderNote.FindSubmatch(note)
	if f == nil {
		return Holder{}, false
	}
	job, err := strconv.ParseUint(string(f[2]), 10, 32)
	if err != nil {
		return Holder{}, false
	}
	since, err := time.Parse(time.RFC3339, string(f[3]))
	if err != nil {
		return Holder{}, false
	}
	h := Holder{Node: string(f[1]), Job: uint32(job), Since: since}
	return h, h.encode() == string(note)
}
