package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// Dir is where noded keeps a node's records.
const Dir = "/var/lib/cloister/audit"

// Files are named by the number of their first record, so that their names
// sort as their records do.
var fileForm = regexp.MustCompile(`^records-([0-9]{20})\.jsonl$`)

func fileName(first uint64) string { return fmt.Sprintf("records-%020d.jsonl", first) }

// firstOf is the number in a file's name, 0 if it is not one of ours.
func firstOf(name string) uint64 {
	m := fileForm.FindStringSubmatch(filepath.Base(name))
	if m == nil {
		return 0
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// files lists the directory's files, the oldest first.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	var names []string
	for _, e := range entries {
		if firstOf(e.Name()) > 0 {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// maxRead bounds what is read of one file, in bytes; noded begins another at
// maxFile.
const maxRead = 64 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	if len(b) > maxRead {
		return nil, fmt.Errorf("reading the records: %s has more than %d bytes: it is not one that noded wrote", path, maxRead)
	}
	return b, nil
}

// A link is a record where it was found.
type link struct {
	*Record
	hash   string
	file   string
	line   int // counted from 1
	broken error
	claim  string // a broken line's hash as it says, if it says one
}

// A part is what one file holds: its links, and what it ends with that is no
// whole record.
type part struct {
	links []link
	tail  []byte
}

// scan reads the lines of one file. A line that is no record is a broken link,
// unless a Torn record right after it accounts for it, or it is what a crash
// leaves at the end.
func scan(file string, b []byte) part {
	var p part
	var pending []link // broken, until a record follows
	from := 0          // where they begin
	for at, n := 0, 1; at < len(b); n++ {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			end = len(b) - at
		}
		line := b[at : at+end]
		next := min(at+end+1, len(b))
		r, hash, err := parse(line)
		if err == nil && next == at+end { // no line feed yet: not whole
			err = errors.New("its line does not end")
		}
		if err != nil {
			if len(pending) == 0 {
				from = at
			}
			pending = append(pending, link{file: file, line: n, broken: err, claim: hash})
			at = next
			continue
		}
		if len(pending) > 0 && !(r.Tear != nil && *r.Tear == *bytesOf(b[from:at])) {
			p.links = append(p.links, pending...)
		}
		pending = nil
		p.links = append(p.links, link{Record: r, hash: hash, file: file, line: n})
		at = next
	}
	if len(pending) > 0 {
		if rest := b[from:]; isTear(rest) {
			p.tail = rest
		} else {
			p.links = append(p.links, pending...)
		}
	}
	return p
}

func bytesOf(b []byte) *Bytes { return &Bytes{Length: int64(len(b)), SHA256: sum(b)} }

// maxTear is the most that a crash can leave, in bytes: what was written in the
// time of one flush.
const maxTear = 256 << 10

// isTear tells what a crash leaves at the end of a file from a record that was
// changed there: a line that does not end, or blocks that were never written
// and read as zeros.
func isTear(b []byte) bool {
	return len(b) <= maxTear && (b[len(b)-1] != '\n' || bytes.IndexByte(b, 0) >= 0)
}
