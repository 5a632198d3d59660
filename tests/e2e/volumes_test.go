//go:build cluster

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// writable makes a volume for writing on alice's laptop and uploads it.
func writable(t *testing.T, s *deploy.Site, name string) {
	t.Helper()
	from := filepath.Join(s.LaptopDir("alice"), name+".from")
	if err := os.MkdirAll(from, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Laptop(t.Context(), "alice", "volume", "create", name, "--from", from, "--free", "8M"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(t.Context(), "alice", name); err != nil {
		t.Fatal(err)
	}
}

// onNode is a job of alice's on a secure node, with the volumes and the lines
// given. Its output is in the last volume, which is for writing.
func onNode(t *testing.T, s *deploy.Site, node, name, body string, volumes ...string) uint32 {
	t.Helper()
	script := "#!/bin/bash\n#SBATCH --partition=secure\n#SBATCH --time=10\n#SBATCH --nodelist=" + node + "\n#CLOISTER class=" + deploy.Classes[node] + "\n"
	for _, v := range volumes {
		script += "#CLOISTER volume=" + v + "\n"
	}
	_, last, _ := strings.Cut(volumes[len(volumes)-1], ":")
	at, _, _ := strings.Cut(last, ":")
	script += "#CLOISTER output=" + at + "/" + name + ".txt\n" + body
	if err := s.Seal(t.Context(), "alice", name, script); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(t.Context(), "alice", "--secure "+name+".sealed")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func endsAs(t *testing.T, s *deploy.Site, job uint32, state string) deploy.Ended {
	t.Helper()
	e, err := s.Wait(t.Context(), "alice", job, limit)
	if err != nil {
		t.Fatal(err)
	}
	if e.State != state {
		t.Fatalf("job %d is %s, not %s: %s", job, e.State, state, e.Output)
	}
	return e
}

func TestVolumesForReadingAreSharedByNodesAndThoseForWritingNameTheirHolder(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	writable(t, s, "work.luks")
	const use = "cat /data/secret.txt\n"
	first := onNode(t, s, cluster.S2, "first", use+"sleep 1000 || true\n", "in.luks:/data:ro", "work.luks:/work:rw")
	if err := s.Started(ctx, "alice", first, cluster.S2); err != nil {
		t.Fatal(err)
	}
	second := onNode(t, s, cluster.S1, "second", use, "in.luks:/data:ro", "work.luks:/work:rw")
	e := endsAs(t, s, second, "FAILED")
	for _, words := range []string{"phase unlock", "work.luks", fmt.Sprintf("job %d on node %s has it since 20", first, cluster.S2), "next: wait until"} {
		if !strings.Contains(e.Output, words) {
			t.Errorf("the second job's output does not say %q: %s", words, e.Output)
		}
	}
	third := onNode(t, s, cluster.S1, "third", use, "in.luks:/data:ro", "third.luks:/results:rw,create,size=32M")
	endsAs(t, s, third, "COMPLETED")
	if got, err := s.Results(ctx, "alice", "third.luks", "third.txt"); err != nil || got != "canary\n" {
		t.Errorf("the job that shares the volume read %q, %v", got, err)
	}
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
		t.Fatal(err)
	}
	endsAs(t, s, first, "COMPLETED")
	clean(t, s, cluster.S2)
	if got, err := s.Results(ctx, "alice", "work.luks", "first.txt"); err != nil || !strings.HasPrefix(got, "canary\n") {
		t.Errorf("the first job wrote %q, %v", got, err)
	}
	if out, err := s.Output(ctx, cluster.Head, holderNote("work.luks")); err != nil || out != "" {
		t.Errorf("the note on the volume is still there: %q, %v", out, err)
	}
}

// holderNote is a script that prints the note on a file of alice's. The guests
// have no getfattr, but Perl: getxattr(2) is number 191 of x86-64.
func holderNote(name string) string {
	return `perl -e '($f, $a, $b) = (@ARGV, "\0" x 128); $n = syscall(191, $f, $a, $b, 128); print substr($b, 0, $n) if $n > 0' ` +
		deploy.Home("alice") + "/" + name + " user.cloister.holder"
}
