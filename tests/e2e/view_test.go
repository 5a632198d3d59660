//go:build cluster && full

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// What scripts of the clinic take for granted, each as one line of output.
const habits = `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=in.luks:/data:ro
#CLOISTER volume=habits.luks:/results:rw,create,size=32M
#CLOISTER image=tiny.sif
#CLOISTER output=/results/out.txt
kind() { stat -f -c %T "$1"; }
say() { echo "$1: ${*:2}"; }
say pwd "$PWD"
say submit "$SLURM_SUBMIT_DIR"
say home ~ "$HOME" "$(cd && pwd)"
say user "$(id -un) $USER"
say zero "$0"
say beside "$(cd "$(dirname "$0")" && ls)"
say back "$(cd "$SLURM_SUBMIT_DIR" && pwd)"
echo 1 > note.txt && say note "$(cat "$SLURM_SUBMIT_DIR/note.txt") on $(kind note.txt)"
echo 2 > ~/.habits && say dotfile "$(kind ~/.habits)"
t=$(mktemp) && echo 3 > "$t" && say mktemp "$(cat "$t") on $(kind "$t")"
d=$(mktemp -d) && say directory "$(kind "$d")"
say shm "$(kind /dev/shm)" "$(kind /var/tmp)"
sort -S 64k -T "${TMPDIR:-/tmp}" <(seq 5000 -1 1) | head -n 1 | { read -r n; say sort "$n"; }
cat <<< "4" | { read -r n; say here-string "$n"; }
say substitution "$(paste <(echo 5) <(echo 6) | tr '\t' ' ')"
(exec 3<> "$t"; echo 7 >&3) && say descriptor "$(head -n 1 "$t")"
trap 'say trap $?' USR1; kill -USR1 $$
(echo 8 > ~/from-child) & wait $! && say child "$(cat ~/from-child)"
apptainer -q exec --bind /data tiny.sif /bin/sh -c 'cat /data/secret.txt > /tmp/from-image && echo 9 > ~/from-image' && say image "$(cat /tmp/from-image ~/from-image | tr '\n' ' ')on $(kind /tmp/from-image)"
for dir in /tmp /var/tmp /dev/shm ~; do
	head -c 40M /dev/zero > $dir/fill 2> /dev/null || say full "$dir at $((($(stat -c %s $dir/fill) + 1048575) / 1048576)) MiB"
	rm -f $dir/fill
done
say cores "$(ulimit -S -c) $(ulimit -H -c) $(head -c 1 /proc/sys/kernel/core_pattern | tr -d '|')"
touch /etc/x /usr/x /shared/x /opt/x /data/x "$(dirname "$0")/x" 2> /dev/null
say elsewhere "$(ls -d /etc/x /usr/x /shared/x /opt/x /data/x "$(dirname "$0")/x" 2> /dev/null)"
say others "$(ls -A /shared/home | tr '\n' ' ')$(ls -A /shared/scratch 2> /dev/null)"
`

// An ordinary script finds what it takes for granted, and every place in which
// it writes outside its volumes is in memory, bounded, and gone afterwards.
func TestAnOrdinaryScriptsHabitsWorkInTheJobView(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	images, err := analysis.Tiny(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MakeVolume(ctx, "alice", "in.luks", map[string]string{"secret.txt": "canary\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.CopyToLaptop("alice", images.SIF, "tiny.sif"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "alice", "tiny.sif"); err != nil {
		t.Fatal(err)
	}
	// The default limit is more than these guests have memory for.
	if _, err := s.Output(ctx, cluster.S2, `printf '\n[view]\ntmp_size = "16M"\n' >> /etc/cloister/policy.toml && systemctl restart cloister-noded`); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(ctx, "alice", "habits", habits); err != nil {
		t.Fatal(err)
	}
	// From a directory below her home, as users do.
	out, err := s.OutputAs(ctx, "alice", cluster.Login, "mkdir project && mv in.luks tiny.sif habits.sealed project && cd project && timeout 60 sbatch -o ~/slurm-%j.out --secure habits.sealed")
	if err != nil {
		t.Fatal(err)
	}
	id, err := deploy.JobNumber(out)
	if err != nil {
		t.Fatal(err)
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		t.Fatal(err)
	}
	if end.State != "COMPLETED" {
		t.Fatalf("the job is %s: %s", end.State, end.Output)
	}
	if _, err := s.Output(ctx, cluster.Head, "mv /shared/home/alice/project/habits.luks /shared/home/alice/"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Results(ctx, "alice", "habits.luks", "out.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`pwd: /shared/home/alice/project
submit: /shared/home/alice/project
home: /shared/home/alice /shared/home/alice /shared/home/alice
user: alice alice
zero: /var/spool/slurmd/job%05d/slurm_script
beside: slurm_script
back: /shared/home/alice/project
note: 1 on tmpfs
dotfile: tmpfs
mktemp: 3 on tmpfs
directory: tmpfs
shm: tmpfs tmpfs
sort: 1
here-string: 4
substitution: 5 6
descriptor: 7
trap: 0
child: 8
image: canary 9 on tmpfs
full: /tmp at 16 MiB
full: /var/tmp at 16 MiB
full: /dev/shm at 16 MiB
full: /shared/home/alice at 16 MiB
cores: 0 0 c
elsewhere: 
others: alice 
`, id)
	gotLines, wantLines := strings.SplitAfter(got, "\n"), strings.SplitAfter(want, "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		var g, w string
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if g != w {
			t.Errorf("the script printed %q, want %q", g, w)
		}
	}
	clean(t, s, cluster.S2)
	if left, err := s.Output(ctx, cluster.Head, "cd /shared/home/alice && ls -A . project | grep -v -e '^[.]ssh$' -e '^slurm-'"); err != nil || left != ".:\nhabits.luks\nproject\n\nproject:\nhabits.sealed\nin.luks\ntiny.sif\n" {
		t.Errorf("what the script wrote is on the file server: %q, %v", left, err)
	}
}
