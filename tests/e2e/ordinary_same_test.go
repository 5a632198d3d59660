//go:build cluster

package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// A replacement takes out what differs between two runs of anything.
type replacement struct {
	what *regexp.Regexp
	by   string
}

// A normal knows what differs from run to run on this cluster.
type normal []replacement

var (
	timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?`)
	// Lines that say that a job had to wait: how long depends on the machine.
	waited = regexp.MustCompile(`(?m)^\w+: (job \d+ queued and waiting for resources|job \d+ has been allocated resources|Pending job allocation \d+|Job allocation \d+ has been revoked\.)\n`)
)

// anyRun is what differs whatever is compared: numbers of jobs, processes and
// ports, times.
var anyRun = normal{
	{waited, ""},
	{timestamp, "TIME"},
	{regexp.MustCompile(`\b(SLURM_(?:JOB_(?:START|END)_TIME|TASK_PID|SRUN_COMM_PORT|STEP_LAUNCHER_PORT|STEP_?ID|\w*JOB_?ID))=\S*`), "$1=N"},
	{regexp.MustCompile(`\b((?:Array)?JobId|StepId|Priority|SrunHost:Pid|AllocNode:Sid|RunTime|Scheduler)=[^ \n]+`), "$1=N"},
	{regexp.MustCompile(`\b(socket|pipe):\[\d+\]`), "$1:[N]"},
	{regexp.MustCompile(`(?i)\b(job|job allocation|step)([ _])\d+(\.\d+)?`), "$1$2 N"},
	{regexp.MustCompile(`\bjob0*\d+\b`), "jobN"},
	{regexp.MustCompile(`\b\d+\.(0|batch)\b`), "N.$1"},
	{regexp.MustCompile(`\bplanned\b`), "idle"}, // a job waited when the scheduler came round
	{regexp.MustCompile(`\bXDG_SESSION_ID=c\d+`), "XDG_SESSION_ID=cN"},
	{regexp.MustCompile(`\bAccrueTime=\S+`), "AccrueTime=N"}, // Unknown until Slurm has got round to it
	{regexp.MustCompile(`/dev/pts/\d+`), "/dev/pts/N"},
	{regexp.MustCompile(`(?m)^(tick\n)+`), "tick\n"},
}

// normaliser reads the nodes' own numbers: a task must be in the namespaces of
// its node's slurmd, whatever their numbers are.
func normaliser(t *testing.T, s *deploy.Site) normal {
	t.Helper()
	n := slices.Clone(anyRun)
	for _, node := range []string{cluster.N1, cluster.S2} {
		out, err := s.Output(t.Context(), node, "for ns in /proc/$(pgrep -o -x slurmd)/ns/*; do readlink $ns; done")
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range strings.Fields(out) {
			n = append(n, replacement{regexp.MustCompile(regexp.QuoteMeta(ns)), "slurmd's"})
		}
	}
	return n
}

var (
	jobNumber = regexp.MustCompile(`(?m)^\d+$`)
	// Several tasks write to these, in any order.
	unordered = regexp.MustCompile(`\.err$|-two|multi-prog|bad-exit|files/epilog`)
	numbered  = regexp.MustCompile(`(pattern-\w+-)\d+`)
)

func (n normal) text(name, text string) string {
	for _, r := range n {
		text = r.what.ReplaceAllString(text, r.by)
	}
	if strings.HasPrefix(name, "sbatch-") {
		text = jobNumber.ReplaceAllString(text, "N")
	}
	if unordered.MatchString(name) {
		lines := strings.SplitAfter(text, "\n")
		slices.Sort(lines)
		text = strings.Join(lines, "")
	}
	return text
}

// name takes the job's number out of a file's name.
func (n normal) name(name string) string { return numbered.ReplaceAllString(name, "${1}N") }

// differences lists the lines that only one of two outputs has.
func differences(without, with string) string {
	var b strings.Builder
	a, c := strings.Split(without, "\n"), strings.Split(with, "\n")
	for _, line := range a {
		if i := slices.Index(c, line); i >= 0 {
			c = slices.Delete(c, i, i+1)
		} else {
			b.WriteString("  without: " + line + "\n")
		}
	}
	for _, line := range c {
		b.WriteString("  with:    " + line + "\n")
	}
	if b.Len() == 0 {
		return "  the same lines in another order\n"
	}
	return b.String()
}

// What would show a plugin that is not transparent must survive the
// comparison, and what every run has of its own must not.
func TestTheComparisonSeesWhatAPluginCouldChange(t *testing.T) {
	one := `SLURM_JOB_ID=2
SLURM_STEP_LAUNCHER_PORT=60007
3 pipe:[1234] flags:	01
0::/system.slice/slurmstepd.scope/job_2/step_0/user/task_0
slurmstepd-n1: error: *** JOB 15 ON n1 CANCELLED AT 2026-11-24T02:46:57 ***
srun: job 15 queued and waiting for resources
mnt mnt:[4026531841]
`
	other := strings.NewReplacer("=2\n", "=31\n", "60007", "41933", "1234", "77", "job_2/", "job_31/", "15", "44", "02:46:57", "02:49:01",
		"srun: job 15 queued and waiting for resources\n", "").Replace(one)
	if a, b := anyRun.text("x", one), anyRun.text("x", other); a != b {
		t.Errorf("two runs differ:\n%s", differences(a, b))
	}
	for _, change := range [][2]string{{"SLURM_JOB_ID", "CLOISTER=1\nSLURM_JOB_ID"}, {"flags:	01", "flags:	02000001"}, {"3 pipe", "4 pipe"}, {"4026531841", "4026532000"},
		{"slurmstepd.scope", "cloister.slice"}, {"CANCELLED", "FAILED"}} {
		if changed := strings.Replace(one, change[0], change[1], 1); anyRun.text("x", changed) == anyRun.text("x", one) {
			t.Errorf("nobody would notice %q", change[1])
		}
	}
}
