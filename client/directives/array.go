package directives

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cloister/sealed"
)

// parseTasks reads the tasks of a job array as sbatch(1) has them: numbers and
// ranges, with a step after a colon, between commas, and at the end, after %,
// how many may run at a time, which is Slurm's to heed.
func parseTasks(s string) ([]uint32, error) {
	list, limit, limited := strings.Cut(s, "%")
	if limited {
		if n, err := taskNumber(limit); err != nil || n == 0 {
			return nil, fmt.Errorf("--array=%s: %q after %% is not how many tasks may run at a time", s, limit)
		}
	}
	tasks := make(map[uint32]bool)
	for _, part := range strings.Split(list, ",") {
		first, last, step, err := taskRange(part)
		if err != nil {
			return nil, fmt.Errorf("--array=%s: %w", s, err)
		}
		for t := first; t <= last; t += step {
			tasks[t] = true
			if len(tasks) > sealed.MaxRuns {
				return nil, fmt.Errorf("--array=%s: more than %d tasks: seal several jobs", s, sealed.MaxRuns)
			}
		}
	}
	return slices.Sorted(maps.Keys(tasks)), nil
}

// taskRange reads "7", "1-5" or "0-15:4".
func taskRange(part string) (first, last, step uint32, err error) {
	bounds, by, stepped := strings.Cut(part, ":")
	low, high, ranged := strings.Cut(bounds, "-")
	if first, err = taskNumber(low); err != nil {
		return 0, 0, 0, err
	}
	last, step = first, 1
	if ranged {
		if last, err = taskNumber(high); err != nil {
			return 0, 0, 0, err
		}
	}
	if stepped {
		if step, err = taskNumber(by); err != nil {
			return 0, 0, 0, err
		}
	}
	if last < first || step == 0 || stepped && !ranged {
		return 0, 0, 0, fmt.Errorf("%q is no range of tasks", part)
	}
	return first, last, step, nil
}

// taskNumber reads what Slurm does, which is more than one spelling of a number.
func taskNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > sealed.MaxTask {
		return 0, fmt.Errorf("%q is no task's number: from 0 to %d are served", s, sealed.MaxTask)
	}
	return uint32(n), nil
}
