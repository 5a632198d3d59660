//go:build cluster && full

package e2e

import (
	"fmt"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// unkillable is the body of a job with a process that no signal ends: it waits
// for an answer of a FUSE server, which has read its question and is it itself,
// for it has the connection's descriptor. Nobody sees the file system's mount
// any more. 165 is mount(2), 166 umount2(2) with MNT_DETACH; the reply is
// fuse_out_header and fuse_init_out (linux/fuse.h), 1 is FUSE_LOOKUP.
const unkillable = `cat >/tmp/wait.pl <<'EOT'
($name, $dir, $type) = ("waits", "/tmp/waits", "fuse");
mkdir $dir;
sysopen($f, "/dev/fuse", 2) or die "open: $!";
$options = sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fileno($f));
syscall(165, $name, $dir, $type, 0, $options) == 0 or die "mount: $!";
sysread($f, $question, 65536) or die "read: $!";
syswrite($f, pack("L l a8 L4 S2 L x40", 80, 0, substr($question, 8, 8), 7, 31, 0, 0, 0, 0, 4096)) or die "write: $!";
if (!fork) { stat("$dir/name"); exit }
do { sysread($f, $question, 65536) or die "read: $!" } until unpack("x4 L", $question) == 1;
syscall(166, $dir, 2) == 0 or die "umount: $!";
exec "sleep", "1000";
EOT
unshare -Urm perl /tmp/wait.pl
`

func TestAJobsProcessThatNoKillEndsGoesAllTheSame(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	id := onNode(t, s, cluster.S2, "unkillable", "echo synced > /results/kept\nsync /results/kept\n"+unkillable, "unkillable.luks:/results:rw,create,size=32M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	// It is one that cannot be killed.
	if out, err := s.Output(ctx, cluster.S2, "pkill -KILL -u alice -x perl; sleep 3; ps -o stat= -C perl"); err != nil || out[:1] != "D" {
		t.Fatalf("the process that waits is %q, %v", out, err)
	}
	onHead("scancel %d")(t, s, id)
	endsAs(t, s, id, "CANCELLED")
	clean(t, s, cluster.S2)
	if out, err := s.Output(ctx, cluster.S2, fmt.Sprintf("ps -o stat= -C perl; journalctl -q -u cloister-noded -o cat | grep -c 'cut the job.*\"job\":%d'", id)); err != nil || out != "1\n" {
		t.Errorf("left, and how often noded says that it cut it off: %q, %v", out, err)
	}
	kept(t, s, "unkillable.luks")
	serves(t, s, cluster.S2, "after-unkillable")
}
