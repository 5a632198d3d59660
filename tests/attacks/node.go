package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// sshAnswers asks over loopback too, which the packet filter leaves open.
func sshAnswers(ctx context.Context, s *deploy.Site) error {
	const ask = "timeout 5 bash -c '</dev/tcp/127.0.0.1/22' && systemctl is-active -q ssh.service"
	if r, err := s.Run(ctx, cluster.S2, ask); err != nil || r.Exit != 0 {
		return fmt.Errorf("sshd does not run even without a session (%v)", err)
	}
	return during(ctx, s, "ssh", func() error {
		r, err := s.Run(ctx, cluster.S2, "systemctl is-active ssh.service ssh.socket; timeout 5 bash -c '</dev/tcp/127.0.0.1/22' && echo answers; true")
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(r.Stdout) {
			if word == "active" || word == "answers" {
				return fmt.Errorf("sshd is up during the session: %q", r.Stdout)
			}
		}
		return nil
	})
}

// portOpen starts a listener before the session, so that nothing but the
// packet filter stands between it and the network.
func portOpen(ctx context.Context, s *deploy.Site) error {
	const port = "7799"
	if _, err := s.Output(ctx, cluster.S2, "systemd-run -q --unit=listener --collect systemd-socket-activate -l "+port+" --accept --inetd /bin/echo reached && sleep 2"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "systemctl stop listener")
	connect := func() (string, error) {
		r, err := s.Run(ctx, cluster.Login, "timeout 5 bash -c 'cat </dev/tcp/"+cluster.Address(cluster.S2)+"/"+port+"'; true")
		return r.Stdout, err
	}
	if out, err := connect(); err != nil || !strings.Contains(out, "reached") {
		return fmt.Errorf("the listener does not answer even without a session: %q (%v)", out, err)
	}
	return during(ctx, s, "port", func() error {
		out, err := connect()
		if err != nil {
			return err
		}
		if out != "" {
			return fmt.Errorf("the login node reached port %s of the locked node", port)
		}
		return nil
	})
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
		return fmt.Errorf("the swapped header had an effect: %w", err)
	}
	got, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	if got != Secret+"\n" {
		return fmt.Errorf("the swapped header had an effect: the job read %q", got)
	}
	return idle(ctx, s, cluster.S2)
}
