package sealed

import (
	"errors"
	"fmt"
	"strings"
)

const (
	sbatchPrefix = "#SBATCH "

	// MaxSBATCHLines counts the #SBATCH lines of a sealed job, and
	// MaxSBATCHLine bounds one of them.
	MaxSBATCHLines = 256
	MaxSBATCHLine  = 1024
)

// CheckSBATCH refuses #SBATCH lines that a sealed job cannot carry.
//
// sbatch (src/sbatch/opt.c and xlate.c, Slurm 24.11) reads lines that start
// with #SBATCH or #SLURM up to the first line that is neither blank nor a
// comment, and lines that start with #PBS or #BSUB far beyond it. It tells
// neither "#SBATCHx" from "#SBATCH x" nor a no-break space of the caller's
// locale from an ordinary one. So a sealed job holds lines that start with
// "#SBATCH " and are printable ASCII, all of them before its first command,
// and no other line of it starts with '#' but the first.
//
// Heterogeneous jobs are refused: their later components would run what nobody
// checked the manifest against.
func CheckSBATCH(lines []string) error {
	if len(lines) > MaxSBATCHLines {
		return fmt.Errorf("%d #SBATCH lines, at most %d are served", len(lines), MaxSBATCHLines)
	}
	for i, l := range lines {
		if err := checkSBATCHLine(l); err != nil {
			return fmt.Errorf("#SBATCH line %d: %w", i+1, err)
		}
	}
	return nil
}

func checkSBATCHLine(l string) error {
	if !strings.HasPrefix(l, sbatchPrefix) {
		return errors.New(`does not start with "#SBATCH "`)
	}
	if len(l) > MaxSBATCHLine {
		return fmt.Errorf("is %d bytes long, at most %d are served", len(l), MaxSBATCHLine)
	}
	for i := 0; i < len(l); i++ {
		if l[i] < ' ' || l[i] > '~' {
			return fmt.Errorf("byte %d is 0x%02x: only printable ASCII is served, no tab and no carriage return", i+1, l[i])
		}
	}
	for _, word := range strings.Fields(l[len(sbatchPrefix):]) {
		switch w := strings.ToLower(word); {
		case w == "hetjob", w == "packjob":
			return errors.New("heterogeneous jobs are not served (" + w + ")")
		case strings.HasPrefix(w, ":"):
			return errors.New("heterogeneous jobs are not served (a word that starts with ':')")
		}
	}
	return nil
}
