package attacks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/mutant"
	format "cloister/sealed"
	"cloister/tests/cluster"
	"cloister/tests/deploy"

	"filippo.io/age"
)

// onTokens are attacks with the tokens that a sealed job's key is taken with.
var onTokens = []Attack{
	{Number: 22, Who: "A4 A5", Name: "who got to see a sealed job's token takes the job's key before the job does", Defences: defences(mutant.SingleUse), Try: stolenToken},
}

// stolenToken: how the thief came by the token, here by the node's identity, is
// not the point. He has the key then, and must not stay unnoticed.
func stolenToken(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "robbed", "")
	if err != nil {
		return err
	}
	m, err := manifestOf(s, name)
	if err != nil {
		return err
	}
	ca, err := s.Output(ctx, cluster.Head, "cat /root/kms-ca.pem")
	if err != nil {
		return err
	}
	before, err := incidents(ctx, s)
	if err != nil {
		return err
	}
	take := func(token string) (string, error) {
		return s.Output(ctx, cluster.Login, probe+" redeem https://head:8200", cluster.Stdin([]byte(token+"\n"+ca)))
	}
	took, err := take(m.Tokens[0])
	if err != nil {
		return fmt.Errorf("the thief gets no key: %w", err)
	}
	if err := refused(ctx, s, "alice", "--secure "+name+".sealed", "somebody took the token"); err != nil {
		return fmt.Errorf("the thief has %s: %w", strings.TrimSpace(took), err)
	}
	after, err := incidents(ctx, s)
	if err != nil {
		return err
	}
	if after-before != 1 {
		return fmt.Errorf("%d incidents are recorded, want 1", after-before)
	}
	return stolenSpare(ctx, s, take)
}

// stolenSpare takes the token that a job keeps for a lost answer: the job does
// not need it, and the theft is noticed all the same. Of a job that ran none is
// left.
func stolenSpare(ctx context.Context, s *deploy.Site, take func(string) (string, error)) error {
	name, err := sealed(ctx, s, "spare", "")
	if err != nil {
		return err
	}
	m, err := manifestOf(s, name)
	if err != nil {
		return err
	}
	if _, err := take(m.Spare); err != nil {
		return fmt.Errorf("the thief gets no key: %w", err)
	}
	before, err := incidents(ctx, s)
	if err != nil {
		return err
	}
	run := func(file string) error {
		id, err := s.Submit(ctx, "alice", "--secure "+file)
		if err != nil {
			return err
		}
		if err := completed(ctx, s, id); err != nil {
			return err
		}
		return idle(ctx, s, cluster.S2)
	}
	if err := run(name + ".sealed"); err != nil {
		return err
	}
	after, err := incidents(ctx, s)
	if err != nil {
		return err
	}
	if after-before != 1 {
		return got("who took the spare token has the key, and %d incidents are recorded", after-before)
	}
	if name, err = sealed(ctx, s, "ran", ""); err != nil {
		return err
	}
	if m, err = manifestOf(s, name); err != nil {
		return err
	}
	if err := run(name + ".sealed"); err != nil {
		return err
	}
	if took, err := take(m.Spare); err == nil {
		return got("after the job the spare token gives its key: %s", strings.TrimSpace(took))
	}
	return nil
}

// manifestOf reads a job of alice's with the node's identity.
func manifestOf(s *deploy.Site, name string) (*format.Manifest, error) {
	identity, err := os.Open(s.Identity(cluster.S2))
	if err != nil {
		return nil, err
	}
	defer identity.Close()
	ids, err := age.ParseIdentities(identity)
	if err != nil {
		return nil, err
	}
	return opened(s, name, ids)
}

// opened is the manifest of a sealed job of alice's.
func opened(s *deploy.Site, name string, ids []age.Identity) (*format.Manifest, error) {
	file, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), name+".sealed"))
	if err != nil {
		return nil, err
	}
	env, err := format.Parse(file)
	if err != nil {
		return nil, err
	}
	m, _, err := env.Decrypt(ids...)
	return m, err
}
