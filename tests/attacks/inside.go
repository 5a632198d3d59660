package attacks

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onProbes are attacks on those who look into every block device that appears:
// udev, and by its finding LVM and MD.
var onProbes = []Attack{
	{Number: 37, Who: "A4", Name: "volumes hold a file system with the UUID of the node's root and a label, an LVM and an MD signature", Long: true,
		Defences: defences(mutant.PrivateActivation, mutant.UdevRule), Try: signaturesInside},
	{Number: 37, Who: "A1", Name: "LVM and MD signatures are written into the ciphertext of volumes", Long: true,
		Defences: defences(mutant.UdevRule), Try: signaturesOutside},
}

// signaturesInside mounts three volumes of alice's own making.
func signaturesInside(ctx context.Context, s *deploy.Site) error {
	uuid, err := s.Output(ctx, cluster.S2, "blkid -o value -s UUID $(findmnt -no SOURCE /)")
	if err != nil {
		return err
	}
	name := fresh("inside")
	for kind, sign := range map[string]func([]byte){
		"label": func([]byte) {},
		"lvm":   lvmSignature,
		"md":    mdSignature,
	} {
		b, err := ext4Image(ctx, "cloister-37", strings.TrimSpace(uuid))
		if err != nil {
			return err
		}
		sign(b)
		if err := encryptFor(s, name+"-"+kind+".luks", b); err != nil {
			return err
		}
	}
	saw, err := probed(ctx, s, name, "label", "lvm", "md")
	if err != nil {
		return err
	}
	var t tally
	t.found("the label", "udev made a link for it", strings.Contains(saw, "link by-label/cloister-37 dm"))
	t.found("the UUID", "udev made a link for it", strings.Contains(saw, "link by-uuid/"+strings.TrimSpace(uuid)+" dm"))
	t.found("the LVM signature", "udev started LVM's part", strings.Contains(saw, "started lvm dm"))
	t.found("the MD signature", "udev started MD's part", strings.Contains(saw, "started md dm"))
	return t.only(saw)
}

// signaturesOutside alters what the file server has of two volumes where ext4
// stores nothing: they are mounted all the same.
func signaturesOutside(ctx context.Context, s *deploy.Site) error {
	name := fresh("outside")
	for kind, sign := range map[string]func(payload []byte){
		"lvm": lvmSignature,
		"md":  mdSignature,
	} {
		b, err := ext4Image(ctx, "cloister-37", "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
		if err != nil {
			return err
		}
		file := name + "-" + kind + ".luks"
		if err := encryptFor(s, file, b); err != nil {
			return err
		}
		path := filepath.Join(s.LaptopDir("alice"), file)
		whole, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sign(whole[len(whole)-hostileSize:]) // the payload
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			return err
		}
	}
	saw, err := probed(ctx, s, name, "lvm", "md")
	if err != nil {
		return err
	}
	var t tally
	t.found("the LVM signature", "udev started LVM's part on the loop device", strings.Contains(saw, "started lvm loop"))
	t.found("the MD signature", "udev started MD's part on the loop device", strings.Contains(saw, "started md loop"))
	return t.only(saw)
}

// only is result, if nothing else was seen.
func (t *tally) only(saw string) error {
	if len(t.gained) == 0 && saw != "" {
		return got("udev looked into volumes: %s", strings.ReplaceAll(strings.TrimSpace(saw), "\n", "; "))
	}
	return t.result()
}

// standIns are for lvm2's and mdadm's own rules (69-lvm.rules and
// 64-md-raid-assembly.rules), which ask the same of a device before they
// activate what is on it. They only write down that they were started.
const standIns = `SUBSYSTEM!="block", GOTO="end"
ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}=="1", GOTO="end"
ENV{SYSTEMD_READY}=="0", GOTO="end"
ENV{ID_FS_TYPE}=="LVM2_member", RUN+="/bin/sh -c 'echo started lvm %k >> /run/stand-in'"
ENV{ID_FS_TYPE}=="linux_raid_member", RUN+="/bin/sh -c 'echo started md %k >> /run/stand-in'"
LABEL="end"
`

// look prints a line for each link to a mapping or a loop device, for each of
// these that udev knows something of, and for each stand-in that was started.
// by-diskseq has links for all devices by their number, not by what they hold.
const look = `udevadm settle --timeout=60
find /dev/disk -path /dev/disk/by-diskseq -prune -o -type l -printf '%P %l\n' | sed -nE 's,^(by-[a-z]+/)([^ ]*) .*/(dm|loop)-?[0-9]+$,link \1\2 \3,p'
for d in /sys/block/dm-* /sys/block/loop*; do
	[ "$(cat $d/size)" != 0 ] || continue
	udevadm info -q property $d | sed -n "s/^ID_FS_TYPE=/probed ${d##*/} /p"
done
cat /run/stand-in 2>/dev/null || true`

// probed runs a job with the volumes, which lie on alice's laptop, and says
// what udev made of them.
func probed(ctx context.Context, s *deploy.Site, name string, kinds ...string) (saw string, err error) {
	script := "#!/bin/bash\n#SBATCH --partition=secure\n#SBATCH --nodelist=s2\n#SBATCH --time=10\n#CLOISTER class=on-demand\n"
	for _, k := range kinds {
		file := name + "-" + k + ".luks"
		if err := s.Upload(ctx, "alice", file); err != nil {
			return "", err
		}
		script += "#CLOISTER volume=" + file + ":/" + k + ":rw\n"
	}
	script += "#CLOISTER output=/" + kinds[0] + "/out.txt\nsleep 1000 || true\n"
	if err := s.Seal(ctx, "alice", name, script); err != nil {
		return "", err
	}
	if _, err := s.Output(ctx, cluster.S2, "mkdir -p /run/udev/rules.d && rm -f /run/stand-in && cat > /run/udev/rules.d/69-stand-in.rules <<'END'\n"+standIns+"END\nudevadm control --reload"); err != nil {
		return "", err
	}
	defer func() {
		if _, e := s.Output(context.WithoutCancel(ctx), cluster.S2, "rm -f /run/udev/rules.d/69-stand-in.rules /run/stand-in && udevadm control --reload"); err == nil {
			err = e
		}
	}()
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return "", err
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		return "", err
	}
	if saw, err = s.Output(ctx, cluster.S2, look); err != nil {
		return "", err
	}
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
		return "", err
	}
	if err := completed(ctx, s, id); err != nil {
		return "", err
	}
	return saw, idle(ctx, s, cluster.S2)
}

// ext4Image is a file system of hostileSize bytes with room for signatures in
// front, as ext4 always has, and at its end.
func ext4Image(ctx context.Context, label, uuid string) ([]byte, error) {
	f, err := os.CreateTemp("", "inside-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(hostileSize); err != nil {
		return nil, err
	}
	const block = 4096
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(block), "-L", label, "-U", uuid, f.Name(), fmt.Sprint((hostileSize-mdRoom)/block))
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a file system: %w: %s", err, out)
	}
	return os.ReadFile(f.Name())
}
