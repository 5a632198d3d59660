package attacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cloister/mutant"
	format "cloister/sealed"
	"cloister/tests/cluster"
	"cloister/tests/deploy"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

// onMounts are attacks by a job's owner on the view that her job gets.
var onMounts = []Attack{
	{Number: 26, Who: "A4 A6", Name: "a manifest that no client makes puts volumes over the system, into and over each other", Defences: defences(mutant.MountPoints), Try: evilMounts},
}

// The mount point of the job's first volume, where the second is at /results.
var mounts = []string{"/etc", "/usr/bin", "/", "/results/in", "/results", "/data/../etc", "/proc/self", "/run/munge"}

// evilMounts seals each first as everybody does, which the client refuses,
// then past it.
func evilMounts(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "mount", "")
	if err != nil {
		return err
	}
	var ids []uint32
	for i, m := range mounts {
		evil := fmt.Sprintf("%s-%d", name, i)
		var refusal *deploy.LaptopError
		if err := s.Seal(ctx, "alice", evil, strings.ReplaceAll(job(name+".luks", ""), ":/data:", ":"+m+":")); err == nil {
			return got("the client sealed a job with a volume at %s", m)
		} else if !errors.As(err, &refusal) || !strings.Contains(refusal.Stderr, "mount point") {
			return fmt.Errorf("sealing a job with a volume at %s: %w", m, err)
		}
		if err := forge(s, "alice", name, evil, `"mount":"/data"`, `"mount":"`+m+`"`); err != nil {
			return err
		}
		if err := s.Upload(ctx, "alice", evil+".sealed"); err != nil {
			return err
		}
		id, err := s.Submit(ctx, "alice", "--secure "+evil+".sealed")
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	for i, id := range ids {
		end, err := s.Wait(ctx, "alice", id, limit)
		if err != nil {
			return err
		}
		// Its script may fail without the system's own files.
		if strings.Contains(end.Output, "running in a secure session") {
			return got("the job ran with its volume at %s", mounts[i])
		}
		if end.State != "FAILED" || !strings.Contains(end.Output, "refused in phase admit: the manifest of this job is not valid") {
			return fmt.Errorf("a volume at %s: the job is %s: %q", mounts[i], end.State, end.Output)
		}
	}
	return idle(ctx, s, cluster.S2)
}

// forge makes a sealed job that differs from another in its payload, and is
// signed by the same owner: with her own program, so that no check of the
// client's stands in the way.
func forge(s *deploy.Site, who, from, to, old, replacement string) error {
	file, err := os.ReadFile(filepath.Join(s.LaptopDir(who), from+".sealed"))
	if err != nil {
		return err
	}
	env, err := format.Parse(file)
	if err != nil {
		return err
	}
	identities, payload, err := open(s, string(file))
	if err != nil {
		return err
	}
	if !strings.Contains(payload, old) {
		return fmt.Errorf("the payload of %s has no %q", from, old)
	}
	key, err := os.ReadFile(s.SigningKey(who))
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return err
	}
	evil, err := format.Encode(env.SBATCH(), []byte(strings.Replace(payload, old, replacement, 1)), identities, signer)
	if err != nil {
		return err
	}
	return s.Write(who, to+".sealed", string(evil))
}

// open decrypts a sealed job for cluster.S2, and returns its recipients too.
// Whoever sealed it knows what it says.
func open(s *deploy.Site, file string) ([]age.Recipient, string, error) {
	text, err := os.ReadFile(s.Identity(cluster.S2))
	if err != nil {
		return nil, "", err
	}
	identity, err := age.ParseHybridIdentity(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, "", err
	}
	const begin, end = "-----BEGIN AGE ENCRYPTED FILE-----\n", "-----END AGE ENCRYPTED FILE-----\n"
	_, rest, _ := strings.Cut(file, begin)
	armored, _, found := strings.Cut(rest, end)
	if !found {
		return nil, "", errors.New("a sealed job without an encrypted part")
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(begin+armored+end)), identity)
	if err != nil {
		return nil, "", err
	}
	payload, err := io.ReadAll(r)
	return []age.Recipient{identity.Recipient()}, string(payload), err
}
