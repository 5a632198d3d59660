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
	{Number: 26, Who: "A4 A6", Name: "a manifest that no client makes puts volumes over the system, into and over each other, and leads out of its directory", Defences: defences(mutant.MountPoints), Try: evilMounts},
}

// What an owner would have for her job's first volume, in.luks at /data, where
// the second is at /results.
var evilVolumes = []struct{ path, mount string }{
	{Volume, "/etc"}, {Volume, "/usr/bin"}, {Volume, "/"}, {Volume, "/results/in"}, {Volume, "/results"},
	{Volume, "/data/../etc"}, {Volume, "/proc/self"}, {Volume, "/run/munge"}, {"../bob/own.luks", "/data"},
}

// evilMounts seals each first as everybody does, which the client refuses,
// then past it.
func evilMounts(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "mount", "")
	if err != nil {
		return err
	}
	var ids []uint32
	for i, v := range evilVolumes {
		evil := fmt.Sprintf("%s-%d", name, i)
		var refusal *deploy.LaptopError
		if err := s.Seal(ctx, "alice", evil, strings.ReplaceAll(job(name+".luks", ""), Volume+":/data:", v.path+":"+v.mount+":")); err == nil {
			return got("the client sealed a job with %s at %s", v.path, v.mount)
		} else if !errors.As(err, &refusal) || !strings.Contains(refusal.Stderr, "mount point") && !strings.Contains(refusal.Stderr, "leads out of") {
			return fmt.Errorf("sealing a job with %s at %s: %w", v.path, v.mount, err)
		}
		if err := forge(s, "alice", name, evil, `"path":"`+Volume+`","mount":"/data"`, `"path":"`+v.path+`","mount":"`+v.mount+`"`); err != nil {
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
			return got("the job ran with %s at %s", evilVolumes[i].path, evilVolumes[i].mount)
		}
		if end.State != "FAILED" || !strings.Contains(end.Output, "refused in phase admit: the manifest of this job is not valid") {
			return fmt.Errorf("%s at %s: the job is %s: %q", evilVolumes[i].path, evilVolumes[i].mount, end.State, end.Output)
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
	evil, err := format.Encode(env.SBATCH(), env.Notice(), []byte(strings.Replace(payload, old, replacement, 1)), identities, signer)
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
