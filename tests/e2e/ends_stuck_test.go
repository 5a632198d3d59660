//go:build cluster && full

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/noded/audit"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// unkillable is the body of a job with a process that no signal ends: it waits
// for an answer of a FUSE server, which has read its question and is it itself,
// for it has the connection's descriptor. Nobody sees the file system's mount
// any more. 165 is mount(2), 166 umount2(2) with MNT_DETACH; the reply is
// fuse_out_header and fuse_init_out (linux/fuse.h), 1 is FUSE_LOOKUP. With the word
// "thread" it is a second thread that waits, and the first one dies with the kill:
// 56 is clone(2), its flags those of a thread, and CLONE_VFORK, for it has no stack.
const unkillable = `cat >/tmp/wait.pl <<'EOT'
($name, $dir, $type) = ("waits", "/tmp/waits", "fuse");
mkdir $dir;
sysopen($f, "/dev/fuse", 2) or die "open: $!";
$options = sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fileno($f));
syscall(165, $name, $dir, $type, 0, $options) == 0 or die "mount: $!";
sysread($f, $question, 65536) or die "read: $!";
syswrite($f, pack("L l a8 L4 S2 L x40", 80, 0, substr($question, 8, 8), 7, 31, 0, 0, 0, 0, 4096)) or die "write: $!";
if (!fork) { stat("$dir/name") if "@ARGV" ne "thread" || syscall(56, 0x14f00, (0) x 4) == 0; exit }
do { sysread($f, $question, 65536) or die "read: $!" } until unpack("x4 L", $question) == 1;
syscall(166, $dir, 2) == 0 or die "umount: $!";
exec "sleep", "1000";
EOT
unshare -Urm perl /tmp/wait.pl `

func TestAJobsProcessThatNoKillEndsGoesAllTheSame(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	for _, c := range []struct{ name, word, states string }{
		{"unkillable", "", "D"},
		{"unkillable-thread", "thread", "ZD"},
	} {
		t.Run(c.name, func(t *testing.T) {
			volume := c.name + ".luks"
			id := onNode(t, s, cluster.S2, c.name, "echo synced > /results/kept\nsync /results/kept\n"+unkillable+c.word+"\n", volume+":/results:rw,create,size=32M")
			if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
				t.Fatal(err)
			}
			// It is one that cannot be killed.
			if out, err := s.Output(ctx, cluster.S2, "pkill -KILL -u alice -x perl; sleep 3; ps -L -o s= -C perl | tr -d '\n'"); err != nil || out != c.states {
				t.Fatalf("the process that waits is %q, %v", out, err)
			}
			onHead("scancel %d")(t, s, id)
			endsAs(t, s, id, "CANCELLED")
			clean(t, s, cluster.S2)
			if out, err := s.Output(ctx, cluster.S2, fmt.Sprintf("ps -o stat= -C perl; journalctl -q -u cloister-noded -o cat | grep -c 'cut the job.*\"job\":%d'", id)); err != nil || out != "1\n" {
				t.Errorf("left, and how often noded says that it cut it off: %q, %v", out, err)
			}
			kept(t, s, volume)
		})
	}
	serves(t, s, cluster.S2, "after-unkillable")
}

// Nor has it all that people left there end before it can be locked.
func TestAProcessOfAnotherThatNoKillEndsKeepsNoSealedJobAway(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	bobs := strings.Replace(unkillable, "unshare", "setsid runuser -u bob -- unshare", 1)
	if _, err := s.Output(ctx, cluster.S2, strings.TrimSpace(bobs)+" >/dev/null 2>&1 </dev/null &"); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Output(ctx, cluster.S2, "for i in $(seq 100); do pgrep -u bob -x sleep >/dev/null && break; sleep 0.2; done; pkill -KILL -u bob; sleep 3; ps -o stat= -C perl"); err != nil || out == "" || out[:1] != "D" {
		t.Fatalf("the process that waits is %q, %v", out, err)
	}
	serves(t, s, cluster.S2, "beside-unkillable")
	if out, err := s.Output(ctx, cluster.S2, "ps -o stat= -C perl; journalctl -q -u cloister-noded -o cat | grep -c \"cut people's processes off\""); err != nil || out != "1\n" {
		t.Errorf("left, and how often noded says that it cut it off: %q, %v", out, err)
	}
}

// park is the body of a job that leaves a file of its volume on its way through a
// socket of munge's, together with the ends of connections that munge has accepted
// and will read one after the other, waiting two seconds for the rest of each
// (its MUNGE_SOCKET_TIMEOUT_MSECS, with two threads). 46 is sendmsg(2).
const park = `cat >/tmp/park.pl <<'EOT'
use Socket;
for (1 .. 60) {
	socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
	connect($s, sockaddr_un("/run/munge/munge.socket.2")) or die "connect: $!";
	syswrite($s, "x") if $_ < 60;
	push @all, $s;
}
open($f, "<", "/results/kept") or die "open: $!";
$byte = "x";
$iov = pack("P Q", $byte, 1);
$rights = pack("Q l l l*", 16 + 4 * 61, 1, 1, map { fileno $_ } @all, $f) . "\0" x 4;
$message = pack("Q L x4 P Q P Q l x4", 0, 0, $iov, 1, $rights, length $rights, 0);
syscall(46, fileno $all[-1], $message, 0) == 1 or die "sendmsg: $!";
EOT
perl /tmp/park.pl && echo parked > /results/parked
sync
`

// No user may have a node taken out of service.
func TestAVolumeThatAJobLeavesInASocketFencesNoNode(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	before, err := s.Incidents(ctx, cluster.S2, audit.VolumeAdrift)
	if err != nil {
		t.Fatal(err)
	}
	id := onNode(t, s, cluster.S2, "parks", "echo synced > /results/kept\n"+park, "parks.luks:/results:rw,create,size=32M")
	endsAs(t, s, id, "COMPLETED")
	if n, err := s.Incidents(ctx, cluster.S2, audit.VolumeAdrift); err != nil || n != before+1 {
		t.Errorf("%d incidents, before %d, %v", n, before, err)
	}
	if state, err := s.NodeState(ctx, cluster.S2); err != nil || state != "idle" {
		t.Errorf("the node is %s, %v", state, err)
	}
	clean(t, s, cluster.S2)
	if err := s.Download(ctx, "alice", "parks.luks"); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Laptop(ctx, "alice", "volume", "extract", "parks.luks", "--to", "parked", "--any-state"); err != nil {
		t.Errorf("the volume is not read: %v %s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), "parked", "parked")); err != nil || string(b) != "parked\n" {
		t.Errorf("what the job had synced reads %q, %v", b, err)
	}
	serves(t, s, cluster.S2, "after-parks")
}
