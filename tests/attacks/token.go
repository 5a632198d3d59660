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
	token, err := tokenOf(s, name)
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
	const take = probe + " redeem https://head:8200"
	took, err := s.Output(ctx, cluster.Login, take, cluster.Stdin([]byte(token+"\n"+ca)))
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
	return nil
}

func tokenOf(s *deploy.Site, name string) (string, error) {
	identity, err := os.Open(s.Identity(cluster.S2))
	if err != nil {
		return "", err
	}
	defer identity.Close()
	ids, err := age.ParseIdentities(identity)
	if err != nil {
		return "", err
	}
	m, err := opened(s, name, ids)
	if err != nil {
		return "", err
	}
	return m.Tokens[0], nil
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
