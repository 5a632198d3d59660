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

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// onSigners are sealed jobs with a signature that must not count.
var onSigners = []Attack{
	{Number: 4, Who: "A1 A4", Name: "a job signed with a key that is unknown, expired, another user's, or for another purpose",
		Defences: defences(mutant.RegisteredSigner, mutant.SignerBinding, mutant.SignatureNamespace, mutant.SignatureCheck),
		Try: every(
			variant{"unknown key", unknownSigner},
			variant{"expired key", expiredSigner},
			variant{"another user's key", anothersKey},
			variant{"another user's job", anothersJob},
			variant{"signature for another purpose", anotherPurpose},
		)},
}

// small is a job that needs nothing but a volume for its results.
func small(results, body string) string {
	return strings.Replace(job(results, body), "#CLOISTER volume="+Volume+":/data:ro\n", "", 1)
}

func unknownSigner(ctx context.Context, s *deploy.Site) error {
	name := fresh("unknown")
	if err := s.Seal(ctx, "carol", name, small(name+".luks", "true\n")); err != nil {
		return err
	}
	return refused(ctx, s, "carol", "--secure "+name+".sealed", "not registered on this node")
}

// expiredSigner: the node's list has carol's key until a day that is past.
func expiredSigner(ctx context.Context, s *deploy.Site) error {
	key, err := signer(s, "carol")
	if err != nil {
		return err
	}
	const list = "/etc/cloister/allowed_signers"
	line := `carol namespaces="` + format.Namespace + `",valid-before="20200101" ` + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
	if _, err := s.Output(ctx, cluster.S2, "cp -a "+list+" /root/ && echo '"+line+"' >> "+list); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.S2, "cp -a /root/allowed_signers "+list)
	name := fresh("late")
	if err := s.Seal(ctx, "carol", name, small(name+".luks", "true\n")); err != nil {
		return err
	}
	return refused(ctx, s, "carol", "--secure "+name+".sealed", "not valid at this time")
}

// anothersKey: bob seals a job of his own in alice's name, and root on the
// login node submits it as her.
func anothersKey(ctx context.Context, s *deploy.Site) error {
	return submittedAsAlice(ctx, s, `not for user "alice"`, "--user", "alice")
}

func anothersJob(ctx context.Context, s *deploy.Site) error {
	return submittedAsAlice(ctx, s, `sealed for user "bob" and submitted by "alice"`)
}

func submittedAsAlice(ctx context.Context, s *deploy.Site, because string, options ...string) error {
	name := fresh("bobs")
	if err := s.Seal(ctx, "bob", name, small(name+".luks", "true\n"), options...); err != nil {
		return err
	}
	if err := give(ctx, s, "bob", name+".sealed", "alice"); err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed", because)
}

// give copies a user's file to another's directory, as root on the file
// server can.
func give(ctx context.Context, s *deploy.Site, from, file, to string) error {
	_, err := s.Output(ctx, cluster.Head, fmt.Sprintf("cp %s/%s %s/ && chown %s: %[3]s/%[2]s", deploy.Home(from), file, deploy.Home(to), to))
	return err
}

// anotherPurpose: what alice signed as a file is not a job.
func anotherPurpose(ctx context.Context, s *deploy.Site) error {
	name := fresh("purpose")
	if err := s.Seal(ctx, "alice", name, small(name+".luks", "true\n")); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), name+".sealed"))
	if err != nil {
		return err
	}
	file, err := signedBy(s, "alice", string(b), "file")
	if err != nil {
		return err
	}
	if err := upload(ctx, s, "alice", name+".sealed", file); err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed", `the signature is for "file"`)
}

// upload writes a file of an attacker's making.
func upload(ctx context.Context, s *deploy.Site, who, name, text string) error {
	if err := s.Write(who, name, text); err != nil {
		return err
	}
	return s.Upload(ctx, who, name)
}

const (
	sigBegin = "-----BEGIN SSH SIGNATURE-----\n"
	sigEnd   = "-----END SSH SIGNATURE-----\n"
)

// split cuts a sealed job into what is signed, the armored signature and what
// follows that.
func split(file string) (signed, signature, tail string, err error) {
	signed, rest, begins := strings.Cut(file, sigBegin)
	signature, tail, ends := strings.Cut(rest, sigEnd)
	if !begins || !ends {
		return "", "", "", fmt.Errorf("a sealed job without a signature")
	}
	return signed, sigBegin + signature + sigEnd, tail, nil
}

// signedBy replaces a sealed job's signature with one by who. Not with
// ssh-keygen -Y sign: it breaks lines elsewhere, and is refused for that.
func signedBy(s *deploy.Site, who, file, namespace string) (string, error) {
	signed, _, tail, err := split(file)
	if err != nil {
		return "", err
	}
	key, err := signer(s, who)
	if err != nil {
		return "", err
	}
	sig, err := sshsig.Sign(strings.NewReader(signed), key, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", err
	}
	return signed + string(sshsig.Armor(sig)) + tail, nil
}

func signer(s *deploy.Site, who string) (ssh.Signer, error) {
	text, err := os.ReadFile(s.SigningKey(who))
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}
