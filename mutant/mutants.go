//go:build mutants

package mutant

import (
	"os"
	"slices"
	"strings"
)

// Mark is found in every binary of a mutants build and in no other.
const Mark = "cloister-mutants-build-do-not-ship"

// File names the defences to take out, one a line.
const File = "/run/cloister-mutants"

var mark = Mark

// Removed reports whether the mutants file names the defence. It is read each
// time, so one installation serves every mutant.
func Removed(d Defence) bool {
	b, err := os.ReadFile(File)
	return err == nil && mark != "" && slices.Contains(strings.Fields(string(b)), string(d))
}
