// Package directives reads the #CLOISTER lines of an ordinary batch script,
// which say what the sealed job may open, and finds its #SBATCH lines as
// sbatch would.
//
// It refuses every line that it does not understand, with its number, what was
// probably meant and an example: a line that is silently ignored would be a
// protection that somebody believes in. It also refuses #SBATCH options that a
// sealed job cannot be served with.
package directives

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"cloister/sealed"
)

// MaxScript bounds a script, in bytes.
const MaxScript = 1 << 20

const prefix = "#CLOISTER "

// A Script is what the lines of a batch script say.
type Script struct {
	SBATCH      []string // as they stand
	Volumes     []Volume
	Image       *Image
	Secrets     []Secret
	Output      string        // pattern, or ""
	Class       string        // or ""
	Expires     time.Duration // or 0
	Environment map[string]string
	Tasks       []uint32 // of the array, ascending; nil if the job is none
	Requeue     int      // how often Slurm may requeue it

	// Lines of #CLOISTER requeue=, #SBATCH --requeue and --no-requeue, or 0.
	requeueLine, slurmRequeues, slurmDoesNot int
}

// Runs is how often the job may run, nil for once.
func (s *Script) Runs() *sealed.Runs {
	if len(s.Tasks) == 0 && s.Requeue == 0 {
		return nil
	}
	return &sealed.Runs{Tasks: s.Tasks, Attempts: s.Requeue + 1}
}

// A Volume is a volume= line.
type Volume struct {
	Line   int
	Path   string // on the cluster
	Mount  string
	Mode   string // sealed.ReadOnly or sealed.ReadWrite
	Create bool
	Plain  bool  // integrity=none: made without authentication
	Size   int64 // bytes; 0 unless Create
}

// An Image is an image= line.
type Image struct {
	Line  int
	Path  string // on the cluster, or below the mount point of a volume of the job
	Mount string // or ""
}

// A Secret is a secret= line.
type Secret struct {
	Line int
	Name string // in the job view
	File string // on this machine
}

// An Error is a refused line.
type Error struct {
	Line  int // from 1; 0 for the whole script
	Cause string
	Next  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Cause
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Cause)
}

func refuse(line int, next, cause string, args ...any) *Error {
	return &Error{line, fmt.Sprintf(cause, args...), next}
}

// looksMeant finds lines that were probably meant for us: another case, blanks
// before the word, no blank after it.
var looksMeant = regexp.MustCompile(`(?i)^\s*#\s*cloister:?\s*[a-z]+\s*=`)

// Parse reads a script. Errors are *Error.
func Parse(script []byte) (*Script, error) {
	switch {
	case len(script) > MaxScript:
		return nil, refuse(0, "move large data out of the script into a volume", "the script has %d bytes, at most %d are served", len(script), MaxScript)
	case bytes.HasPrefix(script, []byte("\xef\xbb\xbf")):
		return nil, refuse(1, "save it as UTF-8 without a byte order mark", "the script begins with a byte order mark")
	case !bytes.HasPrefix(script, []byte("#!")):
		return nil, refuse(1, "begin it with #!/bin/sh or #!/bin/bash", "the script does not begin with #!")
	case bytes.IndexByte(script, '\r') >= 0:
		return nil, refuse(1+bytes.Count(script[:bytes.IndexByte(script, '\r')], []byte("\n")), "save it with Unix line ends (dos2unix)", "the script has Windows line ends")
	case bytes.IndexByte(script, 0) >= 0:
		return nil, refuse(0, "give a text file", "the script holds a NUL: it is a program, not a script")
	}
	s := &Script{Environment: make(map[string]string)}
	n, started := 0, false // started: the first command was seen
	for line := range strings.Lines(string(script)) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if looksMeant.MatchString(line) || strings.HasPrefix(line, prefix) {
			if started {
				return nil, refuse(n, "move it up, next to the #SBATCH lines", "a #CLOISTER line after the first command has no effect")
			}
			if err := s.directive(n, line); err != nil {
				return nil, err
			}
			continue
		}
		if err := s.slurmLine(n, line, started); err != nil {
			return nil, err
		}
		if w := strings.TrimSpace(line); w != "" && w[0] != '#' {
			started = true
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, s.checkRuns()
}

// check looks at the lines together.
func (s *Script) check() error {
	var mounts []string
	for _, v := range s.Volumes {
		mounts = append(mounts, v.Mount)
		if err := sealed.CheckMounts(mounts); err != nil {
			return refuse(v.Line, "give each volume a mount point of its own, such as /data or /results", "%v", err)
		}
	}
	if s.Image != nil && path.IsAbs(s.Image.Mount) {
		if err := sealed.CheckMounts(append(mounts, s.Image.Mount)); err != nil {
			return refuse(s.Image.Line, "give the image a place of its own, such as /image.sif", "%v", err)
		}
	}
	if v := s.ImageVolume(); v != nil && v.Mode != sealed.ReadOnly {
		return refuse(s.Image.Line, "put it into a volume of its own: cloister volume create software.luks --from DIR", "the image lies in a volume that the job can write")
	}
	return nil
}

// ImageVolume is the volume that holds the image, or nil.
func (s *Script) ImageVolume() *Volume {
	if s.Image == nil {
		return nil
	}
	for i, v := range s.Volumes {
		if _, ok := sealed.InVolume(s.Image.Path, v.Mount); ok {
			return &s.Volumes[i]
		}
	}
	return nil
}

// checkRuns looks at what a job that runs several times asks for.
func (s *Script) checkRuns() error {
	switch {
	case s.slurmRequeues != 0 && s.Requeue == 0:
		return refuse(s.slurmRequeues, "say how often it may, for each run has a token of its own: #CLOISTER requeue=1", "--requeue alone does not let a sealed job run again")
	case s.slurmDoesNot != 0 && s.Requeue > 0:
		return refuse(s.slurmDoesNot, "leave one of them", "--no-requeue contradicts line %d, requeue=%d", s.requeueLine, s.Requeue)
	case s.Runs().Count() > sealed.MaxRuns:
		return refuse(s.requeueLine, "seal several jobs", "%d tasks that may each run %d times: at most %d runs are served", len(s.Tasks), s.Requeue+1, sealed.MaxRuns)
	}
	for _, v := range s.Volumes {
		if err := s.Runs().CheckVolume(v.Path, v.Mode, v.Create); err != nil {
			return refuse(v.Line, "have the node make one for each run: "+s.perRun(), "volume %q: %v", v.Path, err)
		}
		if !v.Create && (strings.Contains(v.Path, "%a") || strings.Contains(v.Path, "%r")) {
			return refuse(v.Line, "name the file as it is", "volume %q: only a volume that the job makes can have %%a or %%r in its name", v.Path)
		}
	}
	return nil
}

// perRun is an example of a volume that fits the job's runs.
func (s *Script) perRun() string {
	name := "results"
	if len(s.Tasks) > 0 {
		name += "-%a"
	}
	if s.Requeue > 0 {
		name += "-%r"
	}
	return "#CLOISTER volume=" + name + ".luks:/results:rw,create,size=1G"
}
