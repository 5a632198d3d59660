package attacks

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onPaths are attacks by which a node would open a file that is not the
// owner's. A manifest is its owner's word, so either she chooses a path that
// she should not have, or who is root on the file server changes what lies at
// one that she signed.
var onPaths = []Attack{
	{Number: 25, Who: "A1 A4", Name: "links lead from a volume's path to files of the node and of others", Long: true, Defences: defences(mutant.PolicyRoots, mutant.UserRights), Try: swapped(links)},
	{Number: 25, Who: "A1 A4", Name: "a FIFO, a directory or a device lies in a volume's place", Long: true, Defences: defences(mutant.RegularFiles, mutant.PolicyRoots, mutant.UserRights), Try: swapped(specials)},
	{Number: 25, Who: "A1", Name: "a volume's path flips between a FIFO and a link to a file of the node, while it is opened", Long: true, Defences: defences(mutant.RegularFiles, mutant.PolicyRoots, mutant.UserRights), Try: flipped},
	{Number: 25, Who: "A4", Name: "a job has its results volume made outside the policy's directories", Long: true, Defences: defences(mutant.PolicyRoots), Try: madeOutside},
}

// A bait is laid in a volume's place by root on the file server.
type bait struct {
	what string
	lay  string // shell command, $1 is the path
	says string // in the refusal
}

var links = []bait{
	{"a file of the node that only root may read", "ln -s /root/volume.luks $1", "permission denied"},
	{"a file of the node that all may read", "ln -s /usr/bin/bash $1", "outside the directories"},
	{"another user's volume", "ln -s " + deploy.Home("bob") + "/own.luks $1", "permission denied"},
	{"a link of /proc", "ln -s /proc/self/fd/0 $1", "symbolic links"},
}

var specials = []bait{
	{"a directory", "mkdir $1", "not a regular file"},
	{"a FIFO", "mkfifo -m 666 $1", "not a regular file"},
	{"a block device", "mknod -m 666 $1 b 254 0", "not a regular file"},
	{"a device that never ends", "mknod -m 666 $1 c 1 5", "not a regular file"},
	{"a link to the node's disk", "ln -s /dev/vda $1", "not a regular file"},
}

// bounded is how long a refused launch may take, in an emulated guest.
const bounded = 40 * time.Second

// sealedForPath makes a directory of alice's on the shared file system, in which every
// node's root can look, and a job that reads a volume there.
func sealedForPath(ctx context.Context, s *deploy.Site, kind string) (name, path string, err error) {
	name = fresh(kind)
	dir := "/shared/scratch/" + name
	path = dir + "/" + Volume
	if _, err := s.Output(ctx, cluster.Head, "install -d -m 755 -o alice "+dir+" && install -m 600 -o bob /dev/null "+deploy.Home("bob")+"/own.luks"); err != nil {
		return "", "", err
	}
	if _, err := s.Output(ctx, cluster.S2, "head -c 1M /dev/zero > /root/volume.luks && chmod 600 /root/volume.luks"); err != nil {
		return "", "", err
	}
	script := strings.ReplaceAll(job(name+".luks", "cat /data/secret.txt\n"), "volume="+Volume, "volume="+path)
	return name, path, s.Seal(ctx, "alice", name, script, "--local", path+"="+Volume)
}

// openedAt submits a job whose volume must not be opened, and says what is
// wrong with the refusal.
func openedAt(ctx context.Context, s *deploy.Site, name, what, says string) error {
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	began := time.Now()
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	if took := time.Since(began); took > bounded {
		return got("noded hung %.0f s on %s", took.Seconds(), what)
	}
	// What lies there is nothing that a later phase could use: to have got as
	// far as that is to have opened it.
	if !strings.Contains(end.Output, "refused in phase admit") {
		return got("noded opened %s", what)
	}
	if end.State != "FAILED" || !strings.Contains(end.Output, says) {
		return fmt.Errorf("%s: the job is %s, and does not say %q but %q", what, end.State, says, end.Output)
	}
	return nil
}

// swapped submits one sealed job again and again, each time with another bait.
func swapped(baits []bait) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		name, path, err := sealedForPath(ctx, s, "path")
		if err != nil {
			return err
		}
		for _, b := range baits {
			if _, err := s.Output(ctx, cluster.Head, "set -- "+path+"; rm -rf $1 && "+b.lay); err != nil {
				return err
			}
			if err := openedAt(ctx, s, name, b.what, b.says); err != nil {
				return err
			}
		}
		return idle(ctx, s, cluster.S2)
	}
}

// flipped: each of the two fails another check, so that an opening which looks
// at one and takes the other would pass.
func flipped(ctx context.Context, s *deploy.Site) error {
	name, path, err := sealedForPath(ctx, s, "flip")
	if err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "systemd-run -q --unit="+name+" --collect sh -c 'while :; do mkfifo -m 666 "+path+".a; mv -fT "+path+".a "+path+
		"; ln -s /usr/bin/bash "+path+".b; mv -fT "+path+".b "+path+"; done'"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, "systemctl stop "+name)
	for range 4 {
		if err := openedAt(ctx, s, name, "one of the two", "/"+name+"/"); err != nil {
			return err
		}
	}
	return idle(ctx, s, cluster.S2)
}

// madeOutside: /run/lock is a directory of the node in which all may write.
func madeOutside(ctx context.Context, s *deploy.Site) error {
	name := fresh("outside")
	path := "/run/lock/" + name + ".luks"
	if err := s.Seal(ctx, "alice", name, job(path, "")); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	r, err := s.Run(ctx, cluster.S2, "test -e "+path+" && rm "+path)
	if err != nil {
		return err
	}
	if r.Exit == 0 || end.State == "COMPLETED" {
		return got("noded made %s", path)
	}
	if !strings.Contains(end.Output, "outside the directories") {
		return fmt.Errorf("the job is %s: %q", end.State, end.Output)
	}
	return idle(ctx, s, cluster.S2)
}
