package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onLeftovers are attacks by what a job leaves, of its own accord or not, and
// by what it can do to its view.
var onLeftovers = []Attack{
	{Number: 16, Who: "A6", Name: "the job writes to $HOME, scratch, /tmp, /dev/shm, /var/tmp, its working directory and everywhere else", Long: true,
		Defences: defences(mutant.HiddenRoots), Inside: writeEverywhere, During: findWritten, After: findWritten},
	{Number: 36, Who: "A4", Name: "the job leaves shared memory, a message queue, keys and a socket for the next jobs of its user and of others", Long: true,
		Defences: defences(mutant.PrivateIPC, mutant.SessionKeyring, mutant.UserKeyring), Inside: leaveBehind, During: segmentsSeen, After: findLeft},
	{Number: 39, Who: "A4 A6", Name: "file systems that the host mounts during the session show in the job",
		Defences: defences(mutant.PrivateMounts), During: lateMount},
	{Number: 39, Who: "A4", Name: "the job makes user namespaces to gain privileges", Long: true,
		Control: namespacesInTheOpen, Inside: inNamespaces, After: namespacesGained},
}

// leak is the name and the content of what attack 16 writes.
const leak = "leak-of-the-job-16"

// places are where a job could try to leave data.
const places = `/shared/home/alice /shared/scratch /shared/home /shared /home /tmp /var/tmp /dev/shm /dev /dev/mqueue ` +
	`/run /run/lock /run/user /run/munge /run/cloister /var/spool /var/spool/slurmd /var/log /var/lib /var/cache /var/lib/cloister ` +
	`/etc /etc/cloister /root /opt /srv /mnt /media /usr/local/bin /usr/lib /boot / /sys/fs/cgroup`

const writeEverywhere = `for d in "$HOME" "$PWD" "$TMPDIR" ` + places + `; do
	echo ` + leak + ` > "$d/` + leak + `" && echo "wrote to $d"
done 2>/dev/null
echo ` + leak + ` > /proc/sys/kernel/core_pattern
true`

// findWritten looks on the node and on the file server for what the job wrote,
// also below the directories' mounts: the view's places are not the node's.
func findWritten(ctx context.Context, s *deploy.Site, v Victim) error {
	if v.Said != "" && !strings.Contains(v.Said, "wrote to /tmp\n") {
		return fmt.Errorf("the job could not even write to its own /tmp: %q", v.Said)
	}
	const find = "for d in " + places + "; do [ -e $d/" + leak + " ] && echo $d; done; grep -l " + leak + " /proc/sys/kernel/core_pattern; true"
	found := ""
	for _, node := range []string{cluster.S2, cluster.Head} {
		out, err := s.Output(ctx, node, find)
		if err != nil {
			return err
		}
		for _, dir := range strings.Fields(out) {
			found += ", " + node + ":" + dir
			if node != cluster.Head && strings.HasPrefix(dir, "/shared") {
				continue // root of a client may not remove it: the file server does
			}
			if _, err := s.Output(ctx, node, "rm -f "+dir+"/"+leak); err != nil {
				return err
			}
		}
	}
	if found != "" {
		return got("what the job wrote lies outside its view: %s", found[2:])
	}
	return nil
}

// left names what attack 36 leaves.
const left = "left-by-job-36"

// The message queue is made through the file system and through mq_open(3).
const leaveBehind = `ipcmk -M 4096 -p 0666
ipcmk -Q -p 0666
ipcmk -S 1 -p 0666
` + probe + ` queue leave ` + left + `
for ring in session user user-session persistent; do ` + probe + ` key leave $ring ` + left + `; done
` + probe + ` socket leave ` + left + ` >/dev/null 2>&1 &
echo ` + left + ` > /dev/shm/` + left + `
for i in 1 2 3 4 5 6 7 8 9; do [ -n "$(` + probe + ` socket find ` + left + `)" ] && break; done
echo made $(` + probe + ` queue find ` + left + `; ` + probe + ` key find user ` + left + `)
` + probe + ` queue leave ` + left + `
echo listening: $(` + probe + ` socket all)`

// segmentsSeen looks from outside while the job runs. The abstract socket can
// be seen there: the network namespace is the node's.
func segmentsSeen(ctx context.Context, s *deploy.Site, _ Victim) error {
	r, err := s.Run(ctx, cluster.S2, "ipcs -m -q -s | grep -c alice; "+probe+" queue find "+left+"; cat /dev/shm/"+left+" 2>/dev/null; true")
	if err != nil {
		return err
	}
	if out := strings.TrimSpace(r.Stdout); out != "0" {
		return got("another process on the node finds the job's segments and queues: %q", out)
	}
	return nil
}

// findLeft has ordinary jobs look on the same node: the user's own next one,
// and another user's.
func findLeft(ctx context.Context, s *deploy.Site, v Victim) error {
	if !strings.Contains(v.Said, "made left by a job left by a job") {
		return fmt.Errorf("the job could not leave anything: %q", v.Said)
	}
	look := `{ ipcs -m -q -s | grep alice; cat /dev/shm/` + left + `; ` + probe + ` queue find ` + left + ` | sed 's/^/queue: /'
for ring in session user user-session persistent; do ` + probe + ` key find $ring ` + left + ` | sed "s/^/$ring keyring: /"; done
` + probe + ` socket find ` + left + ` | sed 's/^/socket: /'; }`
	for _, who := range []string{"alice", "bob"} {
		out := deploy.Home(who) + "/" + fresh("left")
		if err := s.Write(who, "look.sh", "#!/bin/sh\n"+look+"\necho looked\n"); err != nil {
			return err
		}
		if err := s.Upload(ctx, who, "look.sh"); err != nil {
			return err
		}
		id, err := s.Submit(ctx, who, "-p secure -w s2 -o "+out+" -e /dev/null look.sh")
		if err != nil {
			return err
		}
		if err := jobOver(ctx, s, id); err != nil {
			return err
		}
		read, err := s.Output(ctx, cluster.Head, "cat "+out)
		if err != nil {
			return err
		}
		found, looked := strings.CutSuffix(read, "looked\n")
		if !looked {
			return fmt.Errorf("%s's next job did not look: %q", who, read)
		}
		if found != "" {
			return got("%s's next job on the node finds %s", who, strings.Join(strings.Split(strings.TrimSpace(found), "\n"), "; "))
		}
	}
	return nil
}

// lateMount mounts a file system where the view has the host's tree.
func lateMount(ctx context.Context, s *deploy.Site, _ Victim) error {
	r, err := s.Run(ctx, cluster.S2, `for d in /srv /opt /usr/local/games; do mkdir -p $d && mount -t tmpfs late $d && echo late > $d/late; done
p=$(pgrep -u alice -x sleep | head -1)
grep -c ' - tmpfs late ' /proc/$p/mountinfo
ls /proc/$p/root/srv/late /proc/$p/root/opt/late /proc/$p/root/usr/local/games/late 2>/dev/null
for d in /srv /opt /usr/local/games; do umount $d; done`)
	if err != nil {
		return err
	}
	count, seen, _ := strings.Cut(r.Stdout, "\n")
	if count == "0" && seen == "" {
		return nil
	}
	if count == "" {
		return fmt.Errorf("the job's mounts cannot be read: %s", r.Stderr)
	}
	return got("%s file systems mounted later show in the job", count)
}

// inNamespaces prints a line "GOT: …" for each thing that only root, or
// another user, may do.
const inNamespaces = `gain() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "GOT: $what"; fi; }
unshare -Ur true && echo namespaces
gain "other user ids by a setuid program" unshare --user --map-auto --map-root-user true
gain "a writable /usr" unshare -Urm sh -c 'mount -o remount,bind,rw /usr && touch /usr/gained'
gain "a writable /etc" unshare -Urm sh -c 'mount -o remount,rw / ; touch /etc/gained'
gain "noded's identity" unshare -Urm sh -c 'umount -l /etc/cloister; cat /etc/cloister/identity'
gain "the shared file system" unshare -Urm sh -c 'umount -l /shared; ls /shared/scratch/..data /shared/home/bob'
gain "a disk" unshare -Urm sh -c 'mknod /tmp/disk b 254 0 && head -c 16 /tmp/disk'
gain "the packet filter" unshare -Ur nft list ruleset
gain "a file system of the disk" unshare -Urm mount /dev/vda /mnt
gain "sysctls" unshare -Urmpf sh -c 'mount -t proc proc /proc; echo 1 > /proc/sys/kernel/printk'
gain "the host's namespaces" unshare -Ur nsenter -t 1 -m -u true
gain "another control group" unshare -UrC sh -c 'mkdir /sys/fs/cgroup/gained'
gain "setuid" sh -c 'cp /bin/dash /tmp/gain && unshare -Ur chown 0:0 /tmp/gain && chmod 4755 /tmp/gain && [ "$(/tmp/gain -p -c "id -u")" = 0 ]'
true`

func namespacesGained(_ context.Context, _ *deploy.Site, v Victim) error {
	if !strings.Contains(v.Said, "namespaces\n") {
		return fmt.Errorf("the job cannot make a user namespace: %q", v.Said)
	}
	return gained(v.Said)
}

func gained(said string) error {
	var all []string
	for line := range strings.Lines(said) {
		if what, ok := strings.CutPrefix(line, "GOT: "); ok {
			all = append(all, strings.TrimSpace(what))
		}
	}
	if len(all) > 0 {
		return got("the job got %s", strings.Join(all, ", "))
	}
	return nil
}

// namespacesInTheOpen is the same in an ordinary job.
func namespacesInTheOpen(ctx context.Context, s *deploy.Site) error {
	if err := s.Write("alice", "gain.sh", "#!/bin/bash\n"+inNamespaces+"\n"); err != nil {
		return err
	}
	if err := s.Upload(ctx, "alice", "gain.sh"); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "-p batch -w n1 gain.sh")
	if err != nil {
		return err
	}
	end, err := s.Wait(ctx, "alice", id, limit)
	if err != nil {
		return err
	}
	return gained(end.Output)
}
