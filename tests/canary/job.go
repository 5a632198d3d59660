package canary

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister/tests/canary/search"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

const who = "alice"

// limit is how long a job may take, on a busy host.
const limit = 6 * time.Minute

var secureNodes = []string{cluster.S1, cluster.S2}

// The kinds of needle, as the report groups them.
const (
	kindWords  = "words"
	kindKeys   = "volume keys"
	kindJobKey = "job key"
	kindTokens = "tokens"
)

// words are what the researcher wants nobody to see.
type words struct {
	data, file, script, env, step, secret string
	result                                string // next(data)
}

// jobs are what ran, and what must be nowhere.
type jobs struct {
	words   words
	needles []search.Needle // named "kind: what"
}

// word is random and of lower-case letters, so that tr can make another of it. 26 letters of 5 bits (rand.Text).
func word() string {
	return strings.Map(func(r rune) rune {
		if r >= '2' && r <= '7' {
			return r - '2' + 'a'
		}
		return r
	}, strings.ToLower(rand.Text()))
}

// next is tr a-z b-za.
func next(s string) string {
	return strings.Map(func(r rune) rune { return 'a' + (r-'a'+1)%26 }, s)
}

// job does with the data what careless scripts do: copies wherever it can write, System V memory, a core
// dump, both outputs, the environment of many processes, job steps. What worked is written to the results.
func (w words) job(node string) string {
	return `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=` + node + `
#SBATCH --time=15
#CLOISTER class=` + deploy.Classes[node] + `
#CLOISTER volume=in.luks:/data:ro
#CLOISTER volume=` + results(node) + `:/results:rw,create,size=32M
#CLOISTER env=CANARY=` + w.env + `
#CLOISTER secret=pem:key.pem
#CLOISTER output=/results/out.txt
word=` + w.script + `
did() { echo "$1" >> /results/did.txt; }
cat /data/*.txt && did stdout
cat /data/*.txt >&2 && did stderr
ls -l /data; env
for dir in /tmp /var/tmp /dev/shm "$HOME" "$PWD"; do
	cp /data/*.txt "$dir/" && echo "$word $CANARY" > "$dir/words" && gzip -c /data/*.txt > "$dir/packed.gz" && did "files in $dir"
done
perl -e 'local $/; $_ = <>; defined($id = shmget(77, 1 << 20, 01600)) or die "shmget: $!"; shmwrite($id, $_, 0, length) or die "shmwrite: $!"' /data/*.txt && did sysv
echo "argument-` + w.step + `" > /tmp/arguments
STEP=` + w.step + ` srun --overlap -n1 sh -c 'xargs -a /tmp/arguments echo; env; cat /data/*.txt' && did step
STEP=` + w.step + ` srun --overlap -n1 -o /results/step.%t sh -c 'env; cat /data/*.txt' && did "step to a file"
ulimit -c unlimited 2>/dev/null
perl -e 'local $/; $_ = <>; $many = $_ x 50; kill SEGV => $$; sleep 5' /data/*.txt
[ $? = 139 ] && did segv
cat /run/cloister/secrets/pem && did secret
tr a-z b-za < "/data/patient-` + w.file + `.txt" > /results/result.txt && did result
perl -e 'local $/; $_ = <>; $many = $_ x 100; sleep 2' /data/*.txt && did memory
sync
`
}

// didAll are what the script must have been able to do: else the search proves less than it says.
var didAll = []string{"stdout", "stderr", "files in /tmp", "files in /dev/shm", "sysv", "step", "step to a file", "segv", "secret", "result", "memory"}

func results(node string) string { return "results-" + node + ".luks" }

func runJobs(ctx context.Context, s *deploy.Site, dir string, say func(string, ...any)) (*jobs, error) {
	j := &jobs{words: words{data: word(), file: word(), script: word(), env: word(), step: word(), secret: word()}}
	w := &j.words
	w.result = next(w.data)
	for what, value := range map[string]string{"data": w.data, "file name": w.file, "script": w.script, "environment": w.env, "step": w.step, "secret file": w.secret, "result": w.result} {
		j.needles = append(j.needles, needle(kindWords, what, []byte(value)))
	}
	// Lines of different length put the word at every place of a block and at every phase of base64.
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "%d %s\n", i, w.data)
	}
	if err := s.MakeVolume(ctx, who, "in.luks", map[string]string{"patient-" + w.file + ".txt": text.String()}); err != nil {
		return nil, err
	}
	if err := s.Write(who, "key.pem", w.secret+"\n"); err != nil {
		return nil, err
	}
	sealer, err := NewSealer(ctx, s, dir)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]uint32)
	for _, node := range secureNodes {
		name := "job-" + node
		if err := s.Write(who, name+".sh", w.job(node)); err != nil {
			return nil, err
		}
		told, err := sealer.Seal(ctx, name)
		if err != nil {
			return nil, err
		}
		j.needles = append(j.needles, told...)
		id, err := s.Submit(ctx, who, "--secure "+name+".sealed")
		if err != nil {
			return nil, err
		}
		ids[node] = id
	}
	keys, err := VolumeKeys(s, "in.luks", results(cluster.S1), results(cluster.S2))
	if err != nil {
		return nil, err
	}
	j.needles = append(j.needles, keys...)
	say("%d jobs submitted, %d secrets to look for", len(ids), len(j.needles))
	for node, id := range ids {
		end, err := s.Wait(ctx, who, id, limit)
		if err != nil {
			return nil, err
		}
		if end.State != "COMPLETED" {
			return nil, fmt.Errorf("the job on %s is %s: %s", node, end.State, end.Output)
		}
		if err := released(ctx, s, node); err != nil {
			return nil, err
		}
		if err := j.check(ctx, s, node); err != nil {
			return nil, fmt.Errorf("the job on %s: %w", node, err)
		}
	}
	return j, nil
}

// released waits until the node is as it was before.
func released(ctx context.Context, s *deploy.Site, node string) error {
	for deadline := time.Now().Add(time.Minute); ; {
		state, err := s.NodeState(ctx, node)
		if err != nil {
			return err
		}
		left, err := s.Traces(ctx, node)
		if err != nil {
			return err
		}
		if state == "idle" && left == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("node %s is %s, and on it: %s", node, state, left)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// check wants the job to have worked with every word, and its results to be what they should.
func (j *jobs) check(ctx context.Context, s *deploy.Site, node string) error {
	did, err := s.Results(ctx, who, results(node), "did.txt")
	if err != nil {
		return err
	}
	var missing []string
	for _, d := range didAll {
		if !strings.Contains("\n"+did, "\n"+d+"\n") {
			missing = append(missing, d)
		}
	}
	to := filepath.Join(s.LaptopDir(who), results(node)+".out")
	out, errOut := os.ReadFile(filepath.Join(to, "out.txt"))
	result, errResult := os.ReadFile(filepath.Join(to, "result.txt"))
	if err := errors.Join(errOut, errResult); err != nil {
		return err
	}
	for _, w := range []string{j.words.data, j.words.file, j.words.env, j.words.step, j.words.secret} {
		if !strings.Contains(string(out), w) {
			missing = append(missing, "a word in its output")
		}
	}
	if strings.Count(string(result), j.words.result) != 3000 {
		missing = append(missing, "the result")
	}
	if len(missing) > 0 {
		return fmt.Errorf("it did not do all it should: missing %q; its output ends %q", missing, string(out[max(0, len(out)-1500):]))
	}
	return nil
}
