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
	if err := s.options(n, strings.Fields(strings.TrimPrefix(line, "#SBATCH"))); err != nil {
		return err
	}
	s.SBATCH = append(s.SBATCH, line)
	return nil
}

// An option of sbatch's that is looked at.
type option struct {
	short   string
	long    string
	atLeast int // letters of long that getopt takes for it
}

// value reports whether args[i] is the option, with its value, which may be the
// next argument.
func (o option) value(args []string, i int) (value string, is bool) {
	name, value, valued := strings.Cut(args[i], "=")
	if long, ok := strings.CutPrefix(name, "--"); ok {
		is = len(long) >= o.atLeast && strings.HasPrefix(o.long, long)
	} else if o.short != "" {
		value, is = strings.CutPrefix(args[i], o.short)
		valued = value != ""
	}
	if is && !valued && i+1 < len(args) {
		value = args[i+1]
	}
	return strings.Trim(value, `"'`), is
}

var (
	optionNodes     = option{"-N", "nodes", 5}
	optionArray     = option{"-a", "array", 2}
	optionRequeue   = option{"", "requeue", 4}
	optionNoRequeue = option{"", "no-requeue", 4}
)

// An unserved option would make a job that a node must refuse, hours later.
var unserved = []struct {
	option
	next string
}{
	{option{"", "get-user-env", 5}, "leave it out and set what the job needs in the script"},
	{option{"", "x11", 2}, "leave it out"},
	{option{"", "container", 9}, "run the image in the script with apptainer"},
}

// options looks at the arguments of one #SBATCH line.
func (s *Script) options(n int, args []string) error {
	for i, arg := range args {
		if strings.HasPrefix(arg, "#") {
			return nil // a comment
		}
		for _, o := range unserved {
			if _, is := o.value(args, i); is {
				return refuse(n, o.next, "--%s is not served for sealed jobs", o.long)
			}
		}
		if v, is := optionNodes.value(args, i); is && v != "1" && v != "1-1" {
			return refuse(n, "ask for one node: #SBATCH --nodes=1", "sealed jobs run on one node, this asks for %q", v)
		}
		if v, is := optionArray.value(args, i); is {
			if err := s.array(n, v); err != nil {
				return err
			}
		}
		if _, is := optionRequeue.value(args, i); is {
			s.slurmRequeues = n
		}
		if _, is := optionNoRequeue.value(args, i); is {
			s.slurmDoesNot = n
		}
	}
	return nil
}

func (s *Script) array(n int, value string) error {
	if s.Tasks != nil {
		return once(n, "--array", true)
	}
	tasks, err := parseTasks(value)
	s.Tasks = tasks
	return asError(n, "write it as sbatch(1) says, for example: #SBATCH --array=1-10 or --array=0,6,16-32%4", err)
}
