package sealed

import (
	"fmt"
	"slices"
	"strings"
)

// MaxVariable bounds the name and the value of a variable, in bytes each.
const MaxVariable = 4096

// Variables that a signed environment may not set: those that the node and
// Slurm speak through, and those that make a shell or the dynamic loader run
// something before the script's first line.
var (
	reservedPrefixes  = []string{"SLURM", "SBATCH_", "SPANK_", "_SLURM", "CLOISTER_", "PMI_", "PMIX_"}
	reservedVariables = []string{
		"BASHOPTS", "BASH_ENV", "ENV", "HOME", "IFS", "LD_AUDIT", "LD_PRELOAD", "LOGNAME",
		"PS4", "PWD", "SHELL", "SHELLOPTS", "TMPDIR", "USER",
	}
)

// CheckVariable refuses a variable that a signed environment may not hold.
func CheckVariable(name, value string) error {
	if name == "" || len(name) > MaxVariable || name[0] >= '0' && name[0] <= '9' {
		return fmt.Errorf("%q is no name of an environment variable", printable(name))
	}
	for _, r := range name {
		if !plain(r) || r == '.' || r == '-' {
			return fmt.Errorf("%q is no name of an environment variable", printable(name))
		}
	}
	for _, p := range reservedPrefixes {
		if strings.HasPrefix(name, p) {
			return fmt.Errorf("environment variable %s: names that start with %s are not for jobs to set", name, p)
		}
	}
	if slices.Contains(reservedVariables, name) {
		return fmt.Errorf("environment variable %s is not for jobs to set", name)
	}
	// The value may be private: it is not quoted.
	if err := checkText(value, MaxVariable); err != nil {
		return fmt.Errorf("environment variable %s: its value is too long, not UTF-8, or holds a control character", name)
	}
	return nil
}
