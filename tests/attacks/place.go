package attacks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloister/mutant"
	format "cloister/sealed"
	"cloister/tests/cluster"
	"cloister/tests/deploy"

	"filippo.io/age"
)

// onPlaces are sealed jobs that are not for this time or this node.
var onPlaces = []Attack{
	{Number: 7, Who: "A1 A4", Name: "a job is submitted after its expiry", Defences: defences(mutant.Expiry), Try: expired},
	{Number: 7, Who: "A1 A4", Name: "a job for another cluster or another class is encrypted to this node", Defences: defences(mutant.Place),
		Try: every(variant{"another cluster", elsewhere}, variant{"another class", otherClass})},
	{Number: 44, Who: "A1 A2", Name: "a root step before the session takes an on-demand node's identity, to open a job for dedicated nodes",
		Control: takeIdentity(oneIdentity), Try: takeIdentity(nil)},
}

func expired(ctx context.Context, s *deploy.Site) error {
	name := fresh("expired")
	const life = 3 * time.Second
	if err := s.Seal(ctx, "alice", name, small(name+".luks", "true\n"), "--expires", life.String()); err != nil {
		return err
	}
	time.Sleep(life)
	return refused(ctx, s, "alice", "--secure "+name+".sealed", "this sealed job expired on")
}

// elsewhere: the site file of another cluster, whose administrator knows the
// public recipients of this one.
func elsewhere(ctx context.Context, s *deploy.Site) error {
	return misplaced(ctx, s, "another-cluster", `sealed for cluster "elsewhere"`, "on-demand", func(site string) string {
		return strings.Replace(site, `cluster = "test"`, `cluster = "elsewhere"`, 1)
	})
}

// otherClass: the site file takes the on-demand node for a dedicated one.
func otherClass(ctx context.Context, s *deploy.Site) error {
	return misplaced(ctx, s, "another-class", "sealed for dedicated nodes, this node is on-demand", "dedicated", func(site string) string {
		return strings.NewReplacer("[class.dedicated]", "[class.on-demand]", "[class.on-demand]", "[class.dedicated]").Replace(site)
	})
}

func misplaced(ctx context.Context, s *deploy.Site, kind, because, class string, edit func(string) string) error {
	name, err := sealedWith(ctx, s, kind, class, edit)
	if err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed", because)
}

// sealedWith seals a small job of alice's with an altered site file, which
// only a copy of her laptop has.
func sealedWith(ctx context.Context, s *deploy.Site, kind, class string, edit func(string) string) (name string, err error) {
	name = fresh(kind)
	script := strings.Replace(small(name+".luks", "true\n"), "#CLOISTER class=on-demand\n", "#CLOISTER class="+class+"\n", 1)
	if edit == nil {
		return name, s.Seal(ctx, "alice", name, script)
	}
	hers := filepath.Dir(s.SigningKey("alice"))
	copied := fresh("alice-")
	home := filepath.Join(filepath.Dir(hers), copied)
	if out, err := exec.CommandContext(ctx, "cp", "-a", hers, home).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copying a laptop: %w: %s", err, out)
	}
	file := filepath.Join(home, "sites", "test.toml")
	site, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	altered := edit(string(site))
	if altered == string(site) {
		return "", errors.New("the site file was not altered")
	}
	if err := os.Remove(file); err != nil {
		return "", err
	}
	if err := s.Write(copied, "site.toml", altered); err != nil {
		return "", err
	}
	if _, err := s.Laptop(ctx, copied, "site", "add", "site.toml"); err != nil {
		return "", err
	}
	if err := s.Write(copied, name+".sh", script); err != nil {
		return "", err
	}
	if _, err := s.Laptop(ctx, copied, "seal", name+".sh", "-o", name+".sealed"); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(s.LaptopDir(copied), name+".sealed"))
	if err != nil {
		return "", err
	}
	return name, upload(ctx, s, "alice", name+".sealed", string(b))
}

// takeIdentity opens a job for dedicated nodes with what a step of root's
// found on an on-demand node, and submits that job there.
func takeIdentity(edit func(string) string) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		// slurmd's unit hides the file from its steps, but root is root.
		stolen, err := s.Output(ctx, cluster.Login, "timeout 60 srun -p secure -w s2 nsenter -t 1 -m cat /etc/cloister/identity")
		if err != nil {
			return fmt.Errorf("a root step on an open node is refused: %w", err)
		}
		ids, err := age.ParseIdentities(strings.NewReader(stolen))
		if err != nil {
			return err
		}
		// It is the node's: it opens what is meant for the node.
		name, err := sealed(ctx, s, "on-demand", "")
		if err != nil {
			return err
		}
		if err := decrypts(s, name, ids); err != nil {
			return fmt.Errorf("the stolen identity does not open the node's own jobs: %w", err)
		}
		name, err = sealedWith(ctx, s, "for-dedicated", "dedicated", edit)
		if err != nil {
			return err
		}
		err = decrypts(s, name, ids)
		switch {
		case err == nil:
			return got("the stolen identity opened a job for dedicated nodes")
		case !errors.Is(err, format.ErrOtherNode):
			return err
		}
		return refused(ctx, s, "alice", "--secure "+name+".sealed", "not encrypted to this node")
	}
}

// oneIdentity is a site whose classes do not have recipients of their own.
func oneIdentity(site string) string {
	section := func(class string) string {
		_, rest, _ := strings.Cut(site, "[class."+class+"]\n")
		recipients, _, _ := strings.Cut(rest, "\n[")
		return recipients
	}
	return strings.Replace(site, section("dedicated"), section("on-demand"), 1)
}

func decrypts(s *deploy.Site, name string, ids []age.Identity) error {
	_, err := opened(s, name, ids)
	return err
}
