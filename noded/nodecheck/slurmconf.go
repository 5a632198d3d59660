package nodecheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"cloister/mutant"
)

// settings are what a slurm.conf says, by lower-case name; of one that is said
// twice the later counts, as for Slurm (parse_config.c).
type settings map[string]setting

type setting struct {
	value string
	at    string // file and line
}

// includeDepth bounds files that include files.
const includeDepth = 8

// assignment is how Slurm's parser finds the names and values of a line.
var assignment = regexp.MustCompile(`([A-Za-z0-9_.]+)\s*[-*+/]?=\s*("[^"]*"|\S*)`)

// read adds what a file and those that it includes say.
func (s settings) read(path, dir string, depth int) error {
	if depth > includeDepth {
		return fmt.Errorf("%s: files include each other more than %d deep", path, includeDepth)
	}
	b, err := readBounded(path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	for i := 0; i < len(lines); i++ {
		at := fmt.Sprintf("%s, line %d", path, i+1)
		line := uncommented(lines[i])
		for strings.HasSuffix(line, `\`) && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, `\`) + uncommented(lines[i])
		}
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.EqualFold(fields[0], "include") {
			if strings.ContainsAny(fields[1], "*%") {
				return fmt.Errorf("%s: include of %q cannot be followed: name each file", at, fields[1])
			}
			included := fields[1]
			if !filepath.IsAbs(included) {
				included = filepath.Join(dir, included)
			}
			if err := s.read(included, dir, depth+1); err != nil {
				return err
			}
			continue
		}
		for _, m := range assignment.FindAllStringSubmatch(line, -1) {
			s[strings.ToLower(m[1])] = setting{strings.Trim(m[2], `"`), at}
		}
	}
	return nil
}

// uncommented ends a line at a number sign that is not escaped.
func uncommented(line string) string {
	for i := range len(line) {
		if line[i] == '#' && (len(line[:i])-len(strings.TrimRight(line[:i], `\`)))%2 == 0 {
			line = line[:i]
			break
		}
	}
	return strings.TrimRight(line, " \t\r")
}

// A rule is a setting that a secure node must not have, or only so.
type rule struct {
	name string
	// allowed are the values that may stand there, in lower case; nil for any
	// without one of the words.
	allowed []string
	words   []string
	why     string
}

// rules of slurm.conf(5). Prolog and Epilog may be set: they are root's own
// programs on a node whose root is trusted, and slurmd's walls confine them.
var rules = []rule{
	{name: "usepam", allowed: []string{"0", "no", "false"}, why: "PAM would run modules inside the walls around slurmstepd, and fail there"},
	{name: "taskprolog", allowed: []string{"", "(null)"}, why: "it would run a program in every job that its owner did not sign"},
	{name: "taskepilog", allowed: []string{"", "(null)"}, why: "it does not run behind the walls around slurmstepd"},
	{name: "unkillablestepprogram", allowed: []string{"", "(null)"}, why: "it does not run behind the walls around slurmstepd"},
	{name: "prologflags", words: []string{"x11"}, why: "X11 forwarding is a way into and out of the job"},
	{name: "launchparameters", words: []string{"enable_nss_slurm"}, why: "users and groups would come from the controller, not from the node"},
	{name: "slurmdparameters", words: []string{"contain_spank"}, why: "the plugin would work in a copy of slurmstepd, and slurmstepd keep what it holds of the session"},
	{name: "jobcontainertype", allowed: []string{"", "(null)", "job_container/none"}, why: "Slurm would move the job into mounts of its own"},
	{name: "proctracktype", allowed: []string{"proctrack/cgroup"}, why: "a session is ended by its control group: proctrack/cgroup"},
	{name: "plugstackconfig", allowed: []string{"", "/etc/slurm/plugstack.conf"}, why: "the plugin is looked for in /etc/slurm/plugstack.conf"},
}

// slurmConf wants a local file (a configless slurmd gets its plugins from the
// controller) with nothing in it that lets unsigned code run.
func (n Node) slurmConf() []string {
	path := or(n.SlurmConf, "/etc/slurm/slurm.conf")
	s := settings{}
	if err := s.read(path, filepath.Dir(path), 0); err != nil {
		return []string{fmt.Sprintf("a secure node needs a slurm.conf of its own that can be read: %v", err)}
	}
	var wrong []string
	// sbatch --get-user-env makes slurmd run the user's login shell before any
	// plugin is asked, unless this is 0 (env.c, until Slurm 24.11).
	if got, ok := s["getenvtimeout"]; got.value != "0" && !mutant.Removed(mutant.GetEnvCheck) {
		where := path + " does not say GetEnvTimeout=0"
		if ok {
			where = fmt.Sprintf("%s says GetEnvTimeout=%s, not 0", got.at, got.value)
		}
		wrong = append(wrong, where+": sbatch --get-user-env would run the user's profile outside the session")
	}
	if oci := filepath.Join(filepath.Dir(path), "oci.conf"); !absent(oci) {
		wrong = append(wrong, oci+" is there: sbatch --container would run a job in a root file system that its owner did not seal; remove it")
	}
	for _, r := range rules {
		if got, ok := s[r.name]; ok && !r.allows(got.value) {
			wrong = append(wrong, fmt.Sprintf("%s has %s=%s: %s; change that line", got.at, properName[r.name], got.value, r.why))
		}
	}
	return wrong
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

func (r rule) allows(value string) bool {
	value = strings.ToLower(value)
	if r.allowed == nil {
		for _, w := range strings.Split(value, ",") {
			for _, bad := range r.words {
				if strings.TrimSpace(w) == bad {
					return false
				}
			}
		}
		return true
	}
	for _, ok := range r.allowed {
		if value == ok {
			return true
		}
	}
	return false
}

// properName is how slurm.conf(5) writes a setting.
var properName = map[string]string{
	"usepam": "UsePAM", "taskprolog": "TaskProlog", "taskepilog": "TaskEpilog", "unkillablestepprogram": "UnkillableStepProgram",
	"prologflags": "PrologFlags", "launchparameters": "LaunchParameters", "jobcontainertype": "JobContainerType",
	"slurmdparameters": "SlurmdParameters", "proctracktype": "ProctrackType", "plugstackconfig": "PlugStackConfig",
}

// configless refuses a node where slurmd took its files from the controller:
// it leaves a link behind (_handle_slash_run of slurmd.c).
func (n Node) configless() error {
	path := or(n.Configless, "/run/slurm/conf")
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("looking for a configless slurmd: %w", err)
	}
	return fmt.Errorf("%s is there: slurmd took its configuration from the controller; start it without --conf-server and remove %[1]s", path)
}
