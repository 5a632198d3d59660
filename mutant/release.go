//go:build !mutants

package mutant

// Removed is false: a release build has every defence.
func Removed(Defence) bool { return false }
