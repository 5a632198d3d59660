package directives

import (
	"strings"

	"cloister/sealed"
)

// slurmLine keeps a #SBATCH line that sbatch would read, which is one before
// the first command, and refuses what sbatch would read in other ways.
func (s *Script) slurmLine(n int, line string, started bool) error {
	for _, other := range []string{"#PBS", "#BSUB"} {
		if strings.HasPrefix(line, other+" ") {
			return refuse(n, "write it as a #SBATCH line", "%s lines have no effect in a sealed job", other)
		}
	}
	if started {
		return nil
	}
	if strings.HasPrefix(line, "#SLURM") {
		return refuse(n, "write it as a #SBATCH line", "#SLURM lines are not served")
	}
	if !strings.HasPrefix(line, "#SBATCH") {
		return nil
	}
	if err := sealed.CheckSBATCH([]string{line}); err != nil {
		return refuse(n, "write it as #SBATCH --option=value, in printable ASCII, for one job component", "%v", err)
	}
	if len(s.SBATCH) == sealed.MaxSBATCHLines {
		return refuse(n, "put several options into one line", "more than %d #SBATCH lines", sealed.MaxSBATCHLines)
	}
	if err := checkOptions(n, strings.Fields(strings.TrimPrefix(line, "#SBATCH"))); err != nil {
		return err
	}
	s.SBATCH = append(s.SBATCH, line)
	return nil
}

// An unserved option would make a job that a node must refuse, hours later.
type unserved struct {
	short   string
	long    string
	atLeast int // letters of long that getopt takes for it
	next    string
}

var unservedOptions = []unserved{
	{"-a", "array", 2, "seal one job for each task"},
	{"", "requeue", 4, "leave it out: a sealed job runs once, seal it again to run it again"},
	{"", "get-user-env", 5, "leave it out and set what the job needs in the script"},
	{"", "x11", 2, "leave it out"},
	{"", "container", 9, "run the image in the script with apptainer"},
}

func checkOptions(n int, args []string) error {
	for i, arg := range args {
		if strings.HasPrefix(arg, "#") {
			return nil // a comment
		}
		name, value, valued := strings.Cut(arg, "=")
		if !valued && i+1 < len(args) {
			value = args[i+1]
		}
		for _, o := range unservedOptions {
			long, isLong := strings.CutPrefix(name, "--")
			if isLong && len(long) >= o.atLeast && strings.HasPrefix(o.long, long) || o.short != "" && strings.HasPrefix(arg, o.short) {
				return refuse(n, o.next, "--%s is not served for sealed jobs", o.long)
			}
		}
		switch {
		case name == "--nodes" || arg == "-N":
		case strings.HasPrefix(arg, "-N"):
			value = strings.TrimPrefix(arg, "-N")
		default:
			continue
		}
		if value = strings.Trim(value, `"'`); value != "1" && value != "1-1" {
			return refuse(n, "ask for one node: #SBATCH --nodes=1", "sealed jobs run on one node, this asks for %q", value)
		}
	}
	return nil
}
