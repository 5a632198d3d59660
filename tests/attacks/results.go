package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onResults are attacks on volumes that nodes make, by who can write or copy
// their files.
var onResults = []Attack{
	{Number: 41, Who: "A1", Name: "who copied the volumes tries the passphrases that people choose", Control: guessedByHand, Try: guessedVolumes},
	{Number: 42, Who: "A1", Name: "sectors of a results volume are garbled before a second job reads it", Long: true, Defences: defences(mutant.Authentication), Try: garbledResults},
	{Number: 42, Who: "A1", Name: "an older state of a results volume is put back before a third job opens it", Long: true, Defences: defences(mutant.Counter), Try: olderResults},
}

// Passphrase is one that a person would choose.
const Passphrase = "tulip2024"

// guess tries passphrases on a file on the file server, each as long as it
// takes, and says which opened it. Keyslots are counted, too: one that no guess
// opens today may open tomorrow.
func guess(ctx context.Context, s *deploy.Site, file string) (opened string, keyslots string, err error) {
	out, err := s.Output(ctx, cluster.Head, "f="+file+`
cryptsetup luksDump --dump-json-metadata $f | grep -c '"kdf"' || true
for word in password 123456 hospital `+Passphrase+` alice; do
	printf %s $word | cryptsetup open --test-passphrase --key-file - $f 2>/dev/null && echo $word
done
true`, cluster.Timeout(limit))
	if err != nil {
		return "", "", err
	}
	keyslots, opened, _ = strings.Cut(out, "\n")
	return strings.TrimSpace(opened), keyslots, nil
}

// guessedByHand is the volume of somebody who uses cryptsetup alone.
func guessedByHand(ctx context.Context, s *deploy.Site) error {
	const file = "/root/by-hand.luks"
	if _, err := s.Output(ctx, cluster.Head, "truncate -s 20M "+file+" && printf "+Passphrase+" | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - "+file, cluster.Timeout(limit)); err != nil {
		return err
	}
	opened, _, err := guess(ctx, s, file)
	if err == nil && opened != "" {
		err = got("a copied volume opened with the guess %q", opened)
	}
	return err
}

func guessedVolumes(ctx context.Context, s *deploy.Site) error {
	name := fresh("guessed")
	if err := ran(ctx, s, name, job(name+".luks", "")); err != nil {
		return err
	}
	for _, v := range []string{Volume, name + ".luks"} {
		opened, keyslots, err := guess(ctx, s, deploy.Home("alice")+"/"+v)
		if err != nil {
			return err
		}
		if opened != "" {
			return got("%s opened with the guess %q", v, opened)
		}
		if keyslots != "1" {
			return got("%s has %s keyslots, not the one of the generated key alone", v, keyslots)
		}
	}
	return nil
}

// ran seals a job of alice's and waits for its end.
func ran(ctx context.Context, s *deploy.Site, name, script string) error {
	if err := s.Seal(ctx, "alice", name, script); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	return completed(ctx, s, id)
}

// reads is a job that opens an earlier results volume at /r. Its own are without
// authentication, so that they can be read whichever defence is out.
func reads(volume, results, body string) string {
	script := job(results, "#CLOISTER volume="+volume+":/r:rw\n"+body)
	return strings.Replace(script, "create,size=32M", "create,size=32M,integrity=none", 1)
}

// garbledResults changes a byte in every sector of a part of the volume which a
// file is too large not to lie in, and which is not the file system's front.
func garbledResults(ctx context.Context, s *deploy.Site) error {
	name := fresh("garbled")
	if err := ran(ctx, s, name, job(name+".luks", "head -c 16M /dev/zero | tr '\\0' A >/results/big\n")); err != nil {
		return err
	}
	const garble = `perl -e 'open F, "+<", $ARGV[0] or die; binmode F; for ($o = 11 << 20; $o < 27 << 20; $o += 4096) { seek F, $o + 99, 0; read F, $b, 1; seek F, $o + 99, 0; print F chr(ord($b) ^ 1) }' `
	if _, err := s.Output(ctx, cluster.Head, garble+deploy.Home("alice")+"/"+name+".luks"); err != nil {
		return err
	}
	if err := ran(ctx, s, name+"-again", reads(name+".luks", name+"-again.luks",
		"set -o pipefail\nif n=$(tr -d A </r/big | wc -c); then echo altered $n; else echo unreadable; fi\n")); err != nil {
		return err
	}
	printed, err := s.Results(ctx, "alice", name+"-again.luks", "out.txt")
	if err != nil {
		return err
	}
	if n, altered := strings.CutPrefix(lastLine(printed), "altered "); altered && n != "0" {
		return got("the second job read %s garbled bytes", n)
	}
	if lastLine(printed) != "unreadable" {
		return fmt.Errorf("the second job says %q", printed)
	}
	if _, err := s.Results(ctx, "alice", name+".luks", "big"); err == nil || !strings.Contains(err.Error(), "was altered") {
		return got("alice's client extracted a garbled volume: %v", err)
	}
	return idle(ctx, s, cluster.S2)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}

// olderResults has two jobs write to one volume, and puts back what the first
// left, after alice has seen what the second did.
func olderResults(ctx context.Context, s *deploy.Site) error {
	name := fresh("older")
	volume := deploy.Home("alice") + "/" + name + ".luks"
	if err := ran(ctx, s, name+"-1", job(name+".luks", "echo first >/results/round\n")); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "cp "+volume+" /root/older.luks"); err != nil {
		return err
	}
	if err := ran(ctx, s, name+"-2", reads(name+".luks", name+"-2.luks", "echo second >/r/round\n")); err != nil {
		return err
	}
	if seen, err := s.Results(ctx, "alice", name+".luks", "round"); err != nil || seen != "second\n" {
		return fmt.Errorf("after the second job the volume has %q: %w", seen, err)
	}
	if err := s.Seal(ctx, "alice", name+"-3", reads(name+".luks", name+"-3.luks", "cat /r/round\n")); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "cat /root/older.luks >"+volume); err != nil {
		return err
	}
	if err := refused(ctx, s, "alice", "--secure "+name+"-3.sealed", "an older state of the volume was put back"); err != nil {
		return err
	}
	if _, err := s.Results(ctx, "alice", name+".luks", "round"); err == nil || !strings.Contains(err.Error(), "an older state of the volume was put back") {
		return got("alice's client took the older state for the newest: %v", err)
	}
	return nil
}
