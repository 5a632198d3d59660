package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onNodes are attacks on the locked node, from outside and from inside.
var onNodes = []Attack{
	{Number: 12, Who: "A4", Name: "sshd answers during a session", Defences: defences(mutant.StopSSH), Before: sshRuns, During: sshAnswers},
	{Number: 13, Who: "A3 A4", Name: "a login node connects to a listener on the locked node", Defences: defences(mutant.DefaultDrop), Before: listen, During: portOpen},
	{Number: 19, Who: "A1", Name: "root on the file server swaps a volume's header", Defences: defences(mutant.PinnedHeader), Try: swappedHeader},
}

// sshRuns: the test could not fail if sshd never ran.
func sshRuns(ctx context.Context, s *deploy.Site) error {
	// After another session it may still be starting.
	r, err := s.Run(ctx, cluster.S2, "timeout 30 sh -c 'until systemctl is-active -q ssh.service; do sleep 0.5; done' && timeout 5 bash -c '</dev/tcp/127.0.0.1/22'")
	if err != nil || r.Exit != 0 {
		return fmt.Errorf("sshd does not run even without a session (%v)", err)
	}
	return nil
}

// sshAnswers asks over loopback too, which the packet filter leaves open.
func sshAnswers(ctx context.Context, s *deploy.Site, _ Victim) error {
	r, err := s.Run(ctx, cluster.S2, "systemctl is-active ssh.service ssh.socket; timeout 5 bash -c '</dev/tcp/127.0.0.1/22' && echo answers; true")
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(r.Stdout) {
		if word == "active" || word == "answers" {
			return got("sshd is up during the session")
		}
	}
	return nil
}

const listenerPort = "7799"

// listen starts a listener before the session, so that nothing but the packet
// filter stands between it and the network.
func listen(ctx context.Context, s *deploy.Site) error {
	if _, err := s.Output(ctx, cluster.S2, "systemd-run -q --unit=listener --collect systemd-socket-activate -l "+listenerPort+" --accept --inetd /bin/echo reached && sleep 2"); err != nil {
		return err
	}
	if out, err := connect(ctx, s); err != nil || !strings.Contains(out, "reached") {
		return fmt.Errorf("the listener does not answer even without a session: %q (%v)", out, err)
	}
	return nil
}

func connect(ctx context.Context, s *deploy.Site) (string, error) {
	r, err := s.Run(ctx, cluster.Login, "timeout 5 bash -c 'cat </dev/tcp/"+cluster.Address(cluster.S2)+"/"+listenerPort+"'; true")
	return r.Stdout, err
}

func portOpen(ctx context.Context, s *deploy.Site, _ Victim) error {
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "systemctl stop listener")
	out, err := connect(ctx, s)
	if err != nil {
		return err
	}
	if out != "" {
		return got("the login node reached port %s of the locked node", listenerPort)
	}
	return nil
}

// swappedHeader replaces the volume's whole header with one of the attacker's
// own, who also knows its keys. The job must read what was sealed.
func swappedHeader(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "header", "")
	if err != nil {
		return err
	}
	file := deploy.Home("alice") + "/" + Volume
	if _, err := s.Output(ctx, cluster.Head, "cp -a "+file+" /root/before.luks"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, "cp -a /root/before.luks "+file)
	// The payload stays: it begins 2048 sectors into the file.
	if _, err := s.Output(ctx, cluster.Head, "printf attacker | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 512 --cipher aes-xts-plain64 --key-size 256 --offset 2048 --key-file - "+file, cluster.Timeout(limit)); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return got("the swapped header had an effect: the job did not run to its end")
	}
	read, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	if read != Secret+"\n" {
		return got("the swapped header had an effect: the job read %q", read)
	}
	return idle(ctx, s, cluster.S2)
}
