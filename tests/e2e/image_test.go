//go:build cluster

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

const usesImageAndSecret = `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=software.luks:/software:ro
#CLOISTER volume=tool.luks:/results:rw,create,size=32M
#CLOISTER image=/software/v2/tiny-2.sif:images/tiny.sif
#CLOISTER secret=pem:key.pem
#CLOISTER output=/results/out.txt
pem=/run/cloister/secrets/pem
sha256sum < $pem
stat -c '%a %U' $pem
stat -f -c %T $pem
apptainer -q exec --pem-path $pem images/tiny.sif /bin/echo from the image
{ sleep 1000; } 2>/dev/null || true
`

// Both in one job: a job is most of what either takes.
func TestAJobRunsAnEncryptedImageOutOfAVolumeWithASecretKey(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	image, key, err := analysis.Encrypted(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.LaptopDir("alice"), "software/v2"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.CopyToLaptop("alice", image, "software/v2/tiny-2.sif"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Laptop(ctx, "alice", "volume", "create", "software.luks", "--from", "software"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "alice", "software.luks"); err != nil {
		t.Fatal(err)
	}
	if err := s.CopyToLaptop("alice", key, "key.pem"); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "tool", usesImageAndSecret); err != nil {
		t.Fatal(err)
	}
	id, err := s.Submit(ctx, "alice", "--secure tool.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	// A line of the key; what is in brackets keeps the search from finding itself.
	line := strings.Split(string(pem), "\n")[5]
	search := fmt.Sprintf("[%s]%s", line[:1], line[1:])
	const places = "/proc/[0-9]*/cmdline /proc/[0-9]*/environ /var/spool/slurmd /run /tmp /var/tmp /dev/shm /shared/home/alice"
	during, err := s.Output(ctx, cluster.S2, "ls /run/cloister/secrets 2>&1; grep -rlsa -D skip '"+search+"' "+places+"; journalctl -q -b | grep '"+search+"'; true")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(during, "\n") != 1 || !strings.Contains(during, "No such file") {
		t.Errorf("others find of the secret: %q", during)
	}
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
		t.Fatal(err)
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" || strings.Contains(end.Output, line) {
		t.Fatalf("the job is %s on %s: %s", end.State, end.Node, end.Output)
	}
	began := time.Now()
	clean(t, s, cluster.S2)
	if after, err := s.Output(ctx, cluster.S2, "ls /run/cloister/secrets 2>&1; grep -rlsa -D skip '"+search+"' /run /dev/shm /tmp /var; true"); err != nil || strings.Count(after, "\n") != 1 {
		t.Errorf("%s after the job others find of the secret: %q, %v", time.Since(began), after, err)
	}
	got, err := s.Results(ctx, "alice", "tool.luks", "out.txt")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x  -\n400 alice\ntmpfs\nfrom the image\n", sha256.Sum256(pem)); got != want {
		t.Errorf("the output is %q, want %q", got, want)
	}
}
