package soak

import (
	"fmt"
	"strings"

	"cloister/tests/deploy"
)

// What jobs have besides their results.
const (
	inputs    = "in.luks"
	imageFile = "tiny.sif"
	keyFile   = "key.pem"
)

// A job's own complaints, as exit statuses.
const (
	noInputs, noImage, noSecret, noStep, noSync = 91, 92, 93, 94, 95
)

// script is a job that appends numbered records to a file of its own. Record n
// is on disk when a sleep of 1 second and n hundred-thousandths runs: so root on
// the node can see how far the job is, though it tells nobody.
func (l *lane) script(p Plan) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("#!/bin/bash\n#SBATCH --partition=secure\n#SBATCH --time=20\n#SBATCH --nodelist=%s\n#CLOISTER class=%s", l.node, deploy.Classes[l.node])
	if p.Inputs {
		line("#CLOISTER volume=%s:/data:ro", inputs)
	}
	how := "rw,create,size=32M"
	if p.Kept && l.made {
		how = "rw"
	}
	line("#CLOISTER volume=%s:/results:%s", l.volume(p), how)
	if p.Image {
		line("#CLOISTER image=%s", imageFile)
	}
	if p.Secret {
		line("#CLOISTER secret=pem:%s", keyFile)
	}
	line("#CLOISTER output=/results/out-%d.txt", p.Number)
	if p.Stubborn {
		b.WriteString(deploy.Stubborn)
	}
	if p.Inputs {
		line("grep -q %s /data/word || exit %d", word, noInputs)
	}
	if p.Secret {
		line(`grep -q %s /run/cloister/secrets/pem || exit %d`, word, noSecret)
	}
	if p.Image {
		line("apptainer -q exec %s /bin/true || exit %d", imageFile, noImage)
	}
	if p.Step {
		line(`[ "$(srun echo step)" = step ] || exit %d`, noStep)
	}
	line("for n in $(seq -f %%05g 1 %d); do", p.Records)
	line("  echo $n >> /results/%s && sync /results/%[1]s || exit %d", p.file(), noSync)
	line("  sleep 1.$n\ndone")
	if p.Blow == ExitStatus {
		line("exit 3")
	}
	return b.String()
}

func (p Plan) file() string { return fmt.Sprintf("records-%d", p.Number) }

func (l *lane) volume(p Plan) string {
	if p.Kept {
		return "kept-" + l.node + ".luks"
	}
	return fmt.Sprintf("made-%s-%d.luks", l.node, p.Number)
}

// synced reads the pgrep of a node: the last record of the job that is on disk.
func synced(pgrep string) (last int) {
	for line := range strings.Lines(pgrep) {
		var n int
		if _, ms, ok := strings.Cut(strings.TrimSpace(line), "sleep 1."); ok && len(ms) == 5 {
			if _, err := fmt.Sscanf(strings.TrimLeft(ms, "0"), "%d", &n); err == nil {
				last = max(last, n)
			}
		}
	}
	return last
}

// intact compares a file of records with what is known: records 1 to n, each
// whole, none missing, at least as many as were synced.
func intact(file string, least, most int) error {
	n := 0
	for line := range strings.Lines(file) {
		if want := fmt.Sprintf("%05d\n", n+1); line != want {
			if n >= least {
				break // nobody promised what was not synced
			}
			return fmt.Errorf("record %d reads %q", n+1, line)
		}
		n++
	}
	if n < least || n > most {
		return fmt.Errorf("%d records, though %d were on disk, of %d", n, least, most)
	}
	return nil
}
