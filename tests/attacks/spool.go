package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSpool are attacks on the script that slurmd keeps for the job, which
// belongs to the job's user.
var onSpool = []Attack{
	{Number: 8, Who: "A4", Name: "a process that the user left on the node replaces the spooled script in a tight loop once noded has read it", Long: true, Defences: defences(mutant.VerifiedCopy), Try: replacedScript},
}

// The replacer runs on the node as the user, as what an earlier login left may.
// inotify tells it when somebody has read the script: that is noded. System
// call numbers are those of x86-64, which the guests have.
const replacer = `
use strict;
use Errno;
my $fd = syscall(294, 04000) ; # inotify_init1(IN_NONBLOCK)
die "inotify_init1: $!" if $fd < 0;
open(my $events, "<&=", $fd) or die;
my ($script, $buf);
until ($script) {
	($script) = glob("/var/spool/slurmd/job*/slurm_script");
	select(undef, undef, undef, 0.01) unless $script;
}
my $path = "$script\0";
# Until slurmd has given the file to the user she may not watch it (EACCES).
while (syscall(254, $fd, $path, 1) < 0) { # IN_ACCESS
	die "inotify_add_watch: $!" unless $!{EACCES};
	select(undef, undef, undef, 0.002);
}
until (sysread($events, $buf, 4096)) { select(undef, undef, undef, 0.005) }
do { select(undef, undef, undef, 0.5) } while (sysread($events, $buf, 4096)); # the rest of the file is read
my $text = "#!/bin/sh\necho UNSIGNED\nexit 0\n";
$text .= "\n" x ((-s $script) - length $text); # no moment at which the file is empty
for (my $n = 0;; $n++) {
	open(my $f, "+<", $script) or die "$script: $!";
	syswrite($f, $text);
	close($f);
	if ($n == 0) { open(my $log, ">", "/var/tmp/replaced"); }
	select(undef, undef, undef, 0.02); # a file that is open to be written cannot be run
}
`

// replacedScript: the script is the user's own file, so anything of hers that
// runs on the node can write it.
func replacedScript(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "replaced", "")
	if err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.S2, `set -e
cat > /var/tmp/replacer
rm -f /var/tmp/replaced
systemd-run -q --unit=replacer --uid=alice --collect perl /var/tmp/replacer`, cluster.Stdin([]byte(replacer))); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "systemctl stop replacer; rm -f /var/tmp/replacer /var/tmp/replaced")
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return err
	}
	r, err := s.Run(ctx, cluster.S2, "test -e /var/tmp/replaced || { journalctl -q -u replacer -o cat; exit 1; }")
	if err != nil {
		return err
	}
	if r.Exit != 0 {
		return fmt.Errorf("the script was never replaced: %s", strings.TrimSpace(r.Stdout))
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	if strings.Contains(printed, "UNSIGNED") {
		return got("what replaced the verified script ran in the session")
	}
	if printed != Secret+"\n" {
		return fmt.Errorf("the job printed %q", printed)
	}
	return idle(ctx, s, cluster.S2)
}
