// Package spank checks a submission on the login node, in sbatch, srun or
// salloc with --secure, so that a mistake is told at once and not by the node
// after hours in the queue. It is a convenience: whoever submits can leave it
// out, and no node relies on it.
//
// It says what the node would say, in the same words, as far as a login node
// can know: the shape, the signature, the expiry, the arguments. It cannot
// decrypt: the user whom the job was sealed for, the cluster and what the job
// asks for are the node's to check.
//
// Package spank/library is the shared object that the plugin loads.
package spank

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloister/sealed"
	"cloister/sealed/signers"
)

// AllowedSigners is the file that is read if it is there: the one that the
// nodes have (policy.toml, allowed_signers).
const AllowedSigners = "/etc/cloister/allowed_signers"

// A Submission is what is known in the process that submits.
type Submission struct {
	Program   string   // "sbatch", "srun" or "salloc"
	Arguments []string // its command line, itself included
	// First is the index of the first argument that is no option, as
	// getopt's optind has it: of sbatch's script.
	First  int
	User   string
	Signer string // an allowed_signers file; it need not exist
	Now    time.Time
}

// An UnseenError says why a submission was not checked, or not wholly: it is
// no reason to refuse.
type UnseenError struct{ Why string }

func (e *UnseenError) Error() string { return e.Why }

func unseen(format string, args ...any) error { return &UnseenError{fmt.Sprintf(format, args...)} }

// Check returns a *sealed.Refusal for what the node would refuse, an
// *UnseenError for what cannot be judged here, nil for the rest.
func Check(s Submission) error {
	if s.Program != "sbatch" {
		return &sealed.Refusal{Kind: sealed.ErrNotSealed, Cause: "only batch jobs can be sealed",
			Next: "write a batch script, seal it, and submit it with sbatch --secure"}
	}
	script, err := s.script()
	if err != nil {
		return err
	}
	e, err := sealed.Parse(script)
	if err != nil {
		return err
	}
	list, unread := readSigners(s.Signer)
	if err := s.checkSigner(e, list); err != nil {
		return err
	}
	if err := e.Notice().CheckTime(s.Now); err != nil {
		return err
	}
	if err := e.Notice().CheckArguments(s.Arguments[s.First+1:]); err != nil {
		return err
	}
	return unread
}

// checkSigner checks no more than the signature if there is no list.
func (s Submission) checkSigner(e *sealed.Envelope, list *signers.List) error {
	if list == nil {
		return e.CheckSignature()
	}
	signer, err := e.Verify(list, s.Now)
	if err != nil {
		return err
	}
	return signer.CheckUser(s.User)
}

// script reads the file that sbatch reads, if it can be told which.
func (s Submission) script() ([]byte, error) {
	if s.First < 1 || s.First > len(s.Arguments) {
		return nil, unseen("sbatch does not tell which file is its script")
	}
	options := s.Arguments[1:s.First]
	// sbatch asks once for each component, and counts from where that begins.
	if slices.Contains(s.Arguments[1:min(s.First+1, len(s.Arguments))], ":") {
		return nil, &sealed.Refusal{Kind: sealed.ErrNotSealed, Cause: "a sealed job cannot be part of a heterogeneous job",
			Next: "submit it alone, without ':'"} // as cgo/plugin/launch.c
	}
	if s.First == len(s.Arguments) {
		if given(options, "--wr") {
			return []byte("#!/bin/sh\n"), nil // what sbatch makes of --wrap is no sealed job
		}
		return nil, unseen("the script comes from standard input")
	}
	name := s.Arguments[s.First]
	if !filepath.IsAbs(name) && (given(options, "--ch") || given(options, "-D")) {
		return nil, unseen("sbatch looks for the script in another directory")
	}
	// A FIFO was emptied by sbatch already.
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return nil, unseen("the script %q is no file here", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, unseen("%v", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, sealed.MaxSize+1))
	if err != nil {
		return nil, unseen("%v", err)
	}
	return b, nil
}

// given says whether one of the options starts so. getopt takes any beginning
// of a long option's name that no other has.
func given(options []string, prefix string) bool {
	for _, o := range options {
		if strings.HasPrefix(o, prefix) {
			return true
		}
	}
	return false
}

// readSigners returns no list if there is none, or none that can be used; then
// an error says so.
func readSigners(file string) (*signers.List, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unseen("who may sign: %v", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, signers.MaxSize+1))
	if err != nil {
		return nil, unseen("who may sign: %v", err)
	}
	list, err := signers.Parse(b)
	if err != nil {
		return nil, unseen("who may sign: %v", err)
	}
	return list, nil
}
