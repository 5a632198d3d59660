// Command library is built with -buildmode=c-shared as cloister-submit.so. The
// plugin, cgo/plugin/submit.c, loads it in sbatch, srun and salloc alone, and
// only if --secure is given.
package main

// #include <stddef.h>
import "C"

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"cloister/sealed"
	"cloister/spank"
)

func main() {}

// What cloister_check_submission returns; cgo/plugin/submit.c has the same.
const (
	good    = 0
	refused = 1
	unseen  = 2
)

// cloister_check_submission checks the submission of this process. first is
// getopt's optind. Into cause and next, of size bytes each, it writes C strings
// of one printable line.
//
//export cloister_check_submission
func cloister_check_submission(first C.int, cause, next *C.char, size C.size_t) (verdict C.int) {
	defer func() {
		if r := recover(); r != nil {
			verdict = unseen
			put(cause, size, "the check itself failed")
		}
	}()
	err := check(int(first))
	if r, ok := errors.AsType[*sealed.Refusal](err); ok {
		put(cause, size, r.Cause)
		put(next, size, r.Next)
		return refused
	}
	if err != nil {
		put(cause, size, err.Error())
		return unseen
	}
	return good
}

func check(first int) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding out which program this is: %w", err)
	}
	// Not os.Args: the Go runtime of a shared object need not have them.
	line, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		return fmt.Errorf("reading the command line: %w", err)
	}
	u, err := user.Current()
	if err != nil {
		return fmt.Errorf("finding your user name: %w", err)
	}
	return spank.Check(spank.Submission{
		Program:   filepath.Base(program),
		Arguments: strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"),
		First:     first,
		User:      u.Username,
		Signer:    spank.AllowedSigners,
		Now:       time.Now(),
	})
}

// put writes s as a C string, cut to size and with a '?' for what a terminal
// might obey.
func put(to *C.char, size C.size_t, s string) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(to)), int(size))
	n := min(len(s), len(b)-1)
	for i := range n {
		b[i] = s[i]
		if s[i] < ' ' || s[i] > '~' {
			b[i] = '?'
		}
	}
	b[n] = 0
}
