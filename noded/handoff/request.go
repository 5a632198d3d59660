package handoff

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
)

// nameMax is the greatest length of a job's name in bytes (CL_NAME_BYTES_MAX of
// cgo/plugin/message.h).
const nameMax = 255

// proofBytes is the length of a step's proof, an HMAC-SHA256.
const proofBytes = 32

// BatchStep is Slurm's number of the step that runs the batch script
// (SLURM_BATCH_SCRIPT of slurm/slurm.h).
const BatchStep uint32 = 0xfffffffb

// A Request is what slurmstepd says of a step that it is about to run. All of
// it came over the network from Slurm's controller or from a submitting host;
// nothing in it is proven.
type Request struct {
	Job, Step uint32
	UID, GID  uint32
	// Groups are the supplementary groups that Slurm would set.
	Groups []uint32
	// Nodes is how many nodes the step spans, NodeID this one's place among
	// them, Tasks how many tasks are to run here.
	Nodes, NodeID, Tasks uint32
	// Restart is how often Slurm has requeued the job.
	Restart uint32
	// ArrayJob and ArrayTask are Slurm's NO_VAL or 0 for a job of no array.
	ArrayJob, ArrayTask uint32
	// Secure tells whether --secure was given.
	Secure bool
	// Arguments are, of the batch step alone, the spooled script and, with
	// Secure, its arguments.
	Arguments []string
	// Cwd is the directory in which the job was submitted, an absolute path.
	Cwd string
	// Name is the batch job's name, which whoever submits chooses; empty if it
	// is not known.
	Name string
	// Script is the spooled batch script, open for reading; nil for other
	// steps. It belongs to the connection and is closed with it. The user can
	// change the file at any time: read it once.
	Script *os.File
	// Proof is the HMAC that came with a step from inside a session, as
	// hexadecimal digits; empty if none came.
	Proof string
	// Claim is a sealed file with what the proof is of, as it follows from what
	// slurmstepd is about to run; nil without a proof. It belongs to the
	// connection.
	Claim *os.File
}

// Batch tells whether the step is the batch script.
func (r *Request) Batch() bool { return r.Step == BatchStep }

// An End is how a step that was admitted came to its end.
type End struct {
	// Died says that slurmstepd went away without a word: it was killed, or
	// it spoke nonsense. Whatever it had started may still run.
	Died bool
	// Status is the wait status of the step's first task here (wait(2)), 0
	// when it never ran.
	Status int
}

// parseLaunch reads a request of kind ask=launch.
func parseLaunch(datagram []byte) (*Request, error) {
	list, err := fields(datagram)
	if err != nil {
		return nil, err
	}
	r := new(Request)
	once := map[string]func(string) error{
		"ask":       word("launch"),
		"job":       into(&r.Job),
		"step":      into(&r.Step),
		"uid":       into(&r.UID),
		"gid":       into(&r.GID),
		"nnodes":    into(&r.Nodes),
		"nodeid":    into(&r.NodeID),
		"ntasks":    into(&r.Tasks),
		"restart":   into(&r.Restart),
		"arrayjob":  into(&r.ArrayJob),
		"arraytask": into(&r.ArrayTask),
		"secure":    flag(&r.Secure),
		"cwd":       directory(&r.Cwd),
	}
	optional := map[string]func(string) error{
		"proof": func(v string) error {
			if b, err := hex.DecodeString(v); err != nil || len(b) != proofBytes || strings.ToLower(v) != v {
				return errors.New("not an HMAC in lower-case hexadecimal digits")
			}
			r.Proof = v
			return nil
		},
		"name": func(v string) error {
			if v == "" || len(v) > nameMax {
				return fmt.Errorf("%d bytes", len(v))
			}
			r.Name = v
			return nil
		},
	}
	repeated := map[string]func(string) error{
		"sgid": func(v string) error {
			if len(r.Groups) == groupsMax {
				return errors.New("too many")
			}
			g, err := number(v)
			r.Groups = append(r.Groups, g)
			return err
		},
		"arg": func(v string) error {
			r.Arguments = append(r.Arguments, v)
			return nil
		},
	}
	if err := read(list, once, optional, repeated); err != nil {
		return nil, err
	}
	if r.Batch() && r.Proof != "" {
		return nil, errors.New("a batch step with a step's proof")
	}
	if r.Batch() && r.Tasks != 1 {
		return nil, fmt.Errorf("a batch step of %d tasks", r.Tasks)
	}
	if r.Batch() && len(r.Arguments) == 0 {
		return nil, errors.New("a batch step without a script")
	}
	return r, nil
}

// parseEnd reads a request of kind ask=end.
func parseEnd(datagram []byte) (End, error) {
	var e End
	list, err := fields(datagram)
	if err != nil {
		return e, err
	}
	var status uint32
	err = read(list, map[string]func(string) error{
		"ask":    word("end"),
		"status": into(&status),
	}, nil, nil)
	e.Status = int(status)
	return e, err
}

// read gives each field to its reader: those of once exactly one time each,
// those of optional at most once, those of repeated any number of times, others
// never.
func read(list []field, once, optional, repeated map[string]func(string) error) error {
	seen := make(map[string]bool, len(once))
	for _, f := range list {
		set, ok := repeated[f.name]
		if !ok {
			if set, ok = once[f.name]; !ok {
				set, ok = optional[f.name]
			}
			if !ok {
				return fmt.Errorf("an unknown field %.32q", f.name)
			}
			if seen[f.name] {
				return fmt.Errorf("the field %s twice", f.name)
			}
			seen[f.name] = true
		}
		if err := set(f.value); err != nil {
			return fmt.Errorf("the field %s: %w", f.name, err)
		}
	}
	for name := range once {
		if !seen[name] {
			return fmt.Errorf("the field %s is missing", name)
		}
	}
	return nil
}

func into(n *uint32) func(string) error {
	return func(v string) (err error) {
		*n, err = number(v)
		return err
	}
}

func word(want string) func(string) error {
	return func(v string) error {
		if v != want {
			return fmt.Errorf("not %q", want)
		}
		return nil
	}
}

func flag(b *bool) func(string) error {
	return func(v string) error {
		*b = v == "1"
		if v != "0" && v != "1" {
			return errors.New("neither 0 nor 1")
		}
		return nil
	}
}

// directory takes an absolute path in its shortest spelling or with the
// trailing slashes, dots and doubles that a shell lets stand: it is cleaned.
func directory(p *string) func(string) error {
	return func(v string) error {
		if !path.IsAbs(v) || len(v) > pathBytesMax {
			return errors.New("not an absolute path")
		}
		*p = path.Clean(v)
		return nil
	}
}
