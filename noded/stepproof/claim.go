// Package stepproof tells whether a job step was started inside a session.
//
// srun, inside the job view, makes an HMAC-SHA256 with the session's step key
// over what it asks Slurm to run. slurmstepd's plugin writes the same claim
// anew from what it is about to run, and this package checks that the HMAC is
// of that claim: a step whose program, arguments, environment, directory,
// number or place was changed on the way has no proof.
//
// It refuses a claim that somebody could still change, that is too large or
// not in its one form, and a step number that was used before.
package stepproof

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"cloister/noded/memfile"
)

// MaxClaim is the greatest length of a claim in bytes (CL_CLAIM_MAX of
// cgo/plugin/claim.h).
const MaxClaim = 8 << 20

// A Claim is what a step says of itself. The program, its arguments and its
// environment are in the bytes only: noded has no use for them.
type Claim struct {
	Job, Step, UID uint32
	// Nodes and Tasks are the step's, over all its nodes.
	Nodes, Tasks uint32
	// Nonce was chosen by srun, 32 hexadecimal digits.
	Nonce string
	// Cwd is srun's working directory, absolute and clean.
	Cwd string

	bytes []byte
}

// head are a claim's first fields, in order.
var head = []string{"cloister-step", "job", "step", "uid", "nnodes", "ntasks", "nonce", "cwd"}

const nonceDigits = 32

// Parse reads a claim, which it keeps.
func Parse(b []byte) (*Claim, error) {
	if len(b) == 0 || len(b) > MaxClaim || b[len(b)-1] != 0 {
		return nil, errors.New("not a step's claim")
	}
	parts := bytes.Split(b[:len(b)-1], []byte{0})
	if len(parts) < len(head) {
		return nil, errors.New("a step's claim that is too short")
	}
	values := make([]string, len(head))
	for i, name := range head {
		v, ok := bytes.CutPrefix(parts[i], []byte(name+"="))
		if !ok {
			return nil, fmt.Errorf("a step's claim without %s in its place", name)
		}
		values[i] = string(v)
	}
	if err := checkTail(parts[len(head):]); err != nil {
		return nil, err
	}
	c := &Claim{Nonce: values[6], Cwd: values[7], bytes: b}
	if values[0] != "1" {
		return nil, errors.New("a step's claim that is not of format 1")
	}
	for i, n := range []*uint32{&c.Job, &c.Step, &c.UID, &c.Nodes, &c.Tasks} {
		v, err := strconv.ParseUint(values[i+1], 10, 32)
		if err != nil || strconv.FormatUint(v, 10) != values[i+1] {
			return nil, fmt.Errorf("a step's claim whose %s is no number", head[i+1])
		}
		*n = uint32(v)
	}
	if len(c.Nonce) != nonceDigits || strings.Trim(c.Nonce, "0123456789abcdef") != "" {
		return nil, errors.New("a step's claim without a nonce")
	}
	if !path.IsAbs(c.Cwd) || path.Clean(c.Cwd) != c.Cwd {
		return nil, errors.New("a step's claim whose working directory is not absolute and clean")
	}
	return c, nil
}

// checkTail wants arguments, then variables in order and each once.
func checkTail(parts [][]byte) error {
	var last []byte
	for _, p := range parts {
		if bytes.HasPrefix(p, []byte("arg=")) && last == nil {
			continue
		}
		if !bytes.HasPrefix(p, []byte("env=")) {
			return errors.New("a step's claim with a field that is not in its place")
		}
		if bytes.Compare(last, p) >= 0 {
			return errors.New("a step's claim whose variables are not in order")
		}
		last = p
	}
	return nil
}

// Read reads a claim from a file in memory that is sealed.
func Read(f *os.File) (*Claim, error) {
	b, err := memfile.Read(f, MaxClaim)
	if err != nil {
		return nil, fmt.Errorf("reading a step's claim: %w", err)
	}
	return Parse(b)
}
