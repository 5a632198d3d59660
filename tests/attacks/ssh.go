package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onLogins are attacks by ssh. bob may log in to every node while it is not
// locked.
var onLogins = []Attack{
	{Number: 12, Who: "A4", Name: "another user logs in with a key in his agent, over IPv4 and IPv6", Long: true,
		Defences: defences(mutant.StopSSH, mutant.DefaultDrop, mutant.DoorsWatch, mutant.ProcessWatch), Before: startAgent, During: newLogin},
	{Number: 12, Who: "A4", Name: "another user goes on with sessions from before the lock: a shell, its background processes, a multiplexed connection, IPv6", Long: true,
		Defences: defences(mutant.StopSSH, mutant.DefaultDrop, mutant.EndConnections, mutant.EndLogins, mutant.EndForeign, mutant.DoorsWatch, mutant.ProcessWatch), Before: openLogins, During: oldLogins},
}

// sshOptions: no known_hosts file but the cluster's, which has no link-local
// addresses.
const sshOptions = "-o BatchMode=yes -o ConnectTimeout=8 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "

// agentSocket is where bob's ssh-agent listens on the login node.
const agentSocket = "/tmp/bob-agent"

// startAgent leaves bob's key in an agent, and no file that ssh could find it
// in.
func startAgent(ctx context.Context, s *deploy.Site) error {
	_, err := s.OutputAs(ctx, "bob", cluster.Login, "rm -f "+agentSocket+"; ssh-agent -a "+agentSocket+" >/dev/null </dev/null 2>&1"+
		" && SSH_AUTH_SOCK="+agentSocket+" ssh-add -q .ssh/id_ed25519")
	if err != nil {
		return err
	}
	way, err := logIn(ctx, s)
	if err != nil {
		return err
	}
	for family, in := range way {
		if !in {
			return fmt.Errorf("bob cannot log in %s even without a session", family)
		}
	}
	return nil
}

// logIn tries a new login each way.
func logIn(ctx context.Context, s *deploy.Site) (map[string]bool, error) {
	six, err := linkLocal(ctx, s, cluster.S2)
	if err != nil {
		return nil, err
	}
	in := map[string]bool{}
	for family, address := range map[string]string{"over IPv4": cluster.Address(cluster.S2), "over IPv6": six + "%eth0"} {
		r, err := s.RunAs(ctx, "bob", cluster.Login, "SSH_AUTH_SOCK="+agentSocket+" timeout 20 ssh "+sshOptions+"-o IdentityFile=none -o ControlMaster=no "+address+" hostname")
		if err != nil {
			return nil, err
		}
		in[family] = strings.TrimSpace(r.Stdout) == cluster.S2
	}
	return in, nil
}

func newLogin(ctx context.Context, s *deploy.Site, _ Victim) error {
	defer s.Run(context.WithoutCancel(ctx), cluster.Login, "pkill -x -u bob ssh-agent")
	in, err := logIn(ctx, s)
	if err != nil {
		return err
	}
	return each(in, "bob logged in")
}

const (
	master  = "/tmp/bob-master"  // control socket of a multiplexed connection
	shell   = "/tmp/bob-shell"   // FIFO into a shell over IPv4, and what it answers
	shell6  = "/tmp/bob-shell6"  // the same over IPv6
	outlive = "/var/tmp/bob-was" // what bob's background process touches
)

// openLogins opens what must not live on, from the login node to s2.
func openLogins(ctx context.Context, s *deploy.Site) error {
	six, err := linkLocal(ctx, s, cluster.S2)
	if err != nil {
		return err
	}
	// A unit for each: a command of the test's must not hold them.
	for _, sh := range []struct{ pipe, to string }{{shell, cluster.Address(cluster.S2)}, {shell6, six + "%eth0"}} {
		if _, err := s.Output(ctx, cluster.Login, "rm -f "+sh.pipe+"*; mkfifo "+sh.pipe+"; chown bob "+sh.pipe); err != nil {
			return err
		}
		if _, err := background(ctx, s, cluster.Login, strings.TrimPrefix(sh.pipe, "/tmp/"), "--uid=bob sh -c 'ssh "+sshOptions+"-o ControlMaster=no "+sh.to+" sh <>"+sh.pipe+" >>"+sh.pipe+".out 2>&1'"); err != nil {
			return err
		}
	}
	if _, err := background(ctx, s, cluster.Login, "bob-master", "--uid=bob ssh "+sshOptions+"-N -M -S "+master+" s2"); err != nil {
		return err
	}
	if _, err := s.OutputAs(ctx, "bob", cluster.Login, "ssh "+sshOptions+"-o ControlMaster=no s2 'rm -f "+outlive+"; setsid nohup sh -c \"while :; do touch "+outlive+"; sleep 0.3; done\" >/dev/null 2>&1 </dev/null &'"); err != nil {
		return err
	}
	for range 10 {
		alive, err := oldWays(ctx, s)
		if err != nil {
			return err
		}
		if len(alive) == 4 && !strings.Contains(fmt.Sprint(alive), "false") {
			return nil
		}
	}
	return fmt.Errorf("bob's sessions do not work even without a lock")
}

// oldWays tries each of them. A client of a multiplexed connection hands
// SIGTERM on to its master and stays, and its master keeps its output open.
func oldWays(ctx context.Context, s *deploy.Site) (map[string]bool, error) {
	r, err := s.RunAs(ctx, "bob", cluster.Login, `for p in `+shell+` `+shell6+`; do
	: > $p.out
	timeout 2 sh -c "echo hostname > $p"
done
timeout -s KILL 10 ssh `+sshOptions+`-o ProxyCommand=none -o ControlMaster=no -S `+master+` s2 'echo master $(hostname)' >`+master+`.out 2>&1 </dev/null
cat `+master+`.out
sleep 1
for p in `+shell+` `+shell6+`; do echo $(basename $p) $(cat $p.out); done`)
	if err != nil {
		return nil, err
	}
	left, err := s.Run(ctx, cluster.S2, "rm -f "+outlive+"; sleep 1.5; test -e "+outlive)
	if err != nil {
		return nil, err
	}
	return map[string]bool{
		"an open shell":          strings.Contains(r.Stdout, "bob-shell s2"),
		"an open shell on IPv6":  strings.Contains(r.Stdout, "bob-shell6 s2"),
		"a multiplexed session":  strings.Contains(r.Stdout, "master s2"),
		"a process left running": left.Exit == 0,
	}, nil
}

func oldLogins(ctx context.Context, s *deploy.Site, _ Victim) error {
	defer s.Run(context.WithoutCancel(ctx), cluster.Login, "systemctl stop bob-shell bob-shell6 bob-master; rm -f /tmp/bob-*")
	ways, err := oldWays(ctx, s)
	if err != nil {
		return err
	}
	return each(ways, "bob still has")
}
