package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/client/keystore"
	"cloister/client/signing"
	"cloister/kms"
	"cloister/sealed"
	"cloister/site"
	"cloister/volume"
	"cloister/volume/ext4"
	"cloister/volume/integrity"
	"cloister/volume/luks2"
	"cloister/volume/verity"
)

// report prints one line of cause and one of what to do next, and returns the
// exit status.
func report(w io.Writer, err error) int {
	status, next := classify(err)
	fmt.Fprintf(w, "cloister: %s\n", oneLine(err.Error()))
	if next != "" {
		fmt.Fprintf(w, "next: %s\n", oneLine(next))
	}
	return status
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

// classify finds the exit status of an error and what to do next.
func classify(err error) (status int, next string) {
	if e, ok := errors.AsType[*advice.Error](err); ok {
		return e.Status, e.Next
	}
	if e, ok := errors.AsType[*directives.Error](err); ok {
		return advice.Refused, e.Next
	}
	if e, ok := errors.AsType[*sealed.Refusal](err); ok {
		return advice.Refused, e.Next
	}
	if e, ok := errors.AsType[*site.ConflictError](err); ok {
		return advice.Refused, "ask the administrator whether " + e.New + " is right, then: cloister site add --replace FILE"
	}
	if next := kms.Hint(err); next != "" {
		if errors.Is(err, kms.ErrLogin) {
			return advice.WrongKey, next
		}
		return advice.Failure, next
	}
	for _, k := range []struct {
		err    error
		status int
		next   string
	}{
		{syscall.ENOSPC, advice.Failure, "free some space on that disk and run the command again; nothing was left half done"},
		{syscall.EDQUOT, advice.Failure, "your quota on that disk is used up: free some space and run the command again; nothing was left half done"},
		{syscall.EROFS, advice.Failure, "choose a place that you may write to"},
		{kms.ErrNoUserToken, advice.Refused, "cloister login"},
		{site.ErrUnknown, advice.Refused, "cloister site add FILE, with the site file from the cluster's administrator"},
		{site.ErrSeveral, advice.Refused, "name one with --site"},
		{signing.ErrExists, advice.Refused, "keep using it, or set CLOISTER_HOME to another directory"},
		{keystore.ErrUnknown, advice.Refused, "use the machine, or the CLOISTER_HOME, that made or sealed this volume"},
		{luks2.ErrWrongKey, advice.WrongKey, "check the passphrase or key; cloister volume keyslots lists what opens the volume"},
		{keystore.ErrWrongPassphrase, advice.WrongKey, "try again with the passphrase that cloister init or cloister volume protect was given"},
		{luks2.ErrLastKeyslot, advice.Refused, "add another one first: cloister volume keyslots add, or cloister volume passwd"},
		{luks2.ErrNoRoom, advice.Refused, "remove one first: cloister volume keyslots remove"},
		{luks2.ErrNoKeyslot, advice.Refused, "list them: cloister volume keyslots"},
		{volume.ErrInUse, advice.InUse, "wait until the job that writes to it has ended"},
		{volume.ErrTar, advice.Refused, "check the program that makes the stream; nothing was left half done"},
		{volume.ErrCutOff, advice.Refused, "copy the file again, whole"},
		{volume.ErrContents, advice.Refused, "the file was changed or damaged: take another copy"},
		{integrity.ErrAltered, advice.Altered, "the file was changed by somebody without its key, or damaged: take another copy; what does not lie in that sector can be taken out with --only"},
		{volume.ErrOlder, advice.Altered, "take the newest copy; to read this one all the same, add --any-state"},
		{volume.ErrUnclosed, advice.Refused, "wait for the end of the job; if its node died, read what is there with --any-state"},
		{ext4.ErrNeedsRecovery, advice.Refused, "mount it once read-write and unmount it (Linux, as root)"},
		{verity.ErrCorrupt, advice.Refused, "the file was changed since it was made: take another copy"},
		{volume.ErrExists, advice.Refused, "choose another name, or remove it first"},
		{fs.ErrNotExist, advice.Failure, "check the path"},
		{fs.ErrPermission, advice.Failure, "check who owns the file and its permissions"},
	} {
		if errors.Is(err, k.err) {
			return k.status, k.next
		}
	}
	// cobra's own complaints have no type.
	for _, complaint := range []string{"unknown command", "required flag", "if any flags in the group", "at least one of the flags in the group"} {
		if strings.HasPrefix(err.Error(), complaint) {
			return advice.Usage, "cloister --help"
		}
	}
	return advice.Failure, ""
}
