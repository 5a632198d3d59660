package attacks

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloister/client/keystore"
	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
	"cloister/volume"
	"cloister/volume/xts"
)

// onHostileVolumes are attacks by what a volume holds: its owner has its keys,
// so every byte of the file system in it may be of her making.
var onHostileVolumes = []Attack{
	{Number: 27, Who: "A4", Name: "a volume holds setuid programs, file capabilities, device nodes and links out", Long: true, Defences: defences(mutant.VolumeAttrs, mutant.OwnerMap, mutant.NoNewPrivs), Try: hostileVolume},
}

// What the script of hostileVolume's job adds to its exit status.
var gains = []struct {
	bit  int
	what string
}{
	{1, "a setuid program of the volume ran as root"},
	{2, "a program of the volume read /etc/shadow by its capability"},
	{4, "the job read the node's disk through a device node of the volume"},
	{8, "the job read /etc/shadow through a link of the volume"},
	{16, "the job wrote to the kernel's log through a device node of the volume"},
}

func hostileVolume(ctx context.Context, s *deploy.Site) error {
	disk, err := s.Output(ctx, cluster.S2, "stat -c '%Hr %Lr' $(findmnt -no SOURCE /)")
	if err != nil {
		return err
	}
	name := fresh("hostile")
	if err := makeHostileVolume(ctx, s, name+".luks", strings.TrimSpace(disk)); err != nil {
		return err
	}
	if err := s.Upload(ctx, "alice", name+".luks"); err != nil {
		return err
	}
	// The last line is 64 and more, which nothing else makes of a job.
	if err := s.Seal(ctx, "alice", name, `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=10
#CLOISTER class=on-demand
#CLOISTER volume=`+name+`.luks:/hostile:rw
#CLOISTER output=/hostile/out/out.txt
cd /hostile
g=64
./setuid /etc/shadow && g=$((g+1))
./capable /etc/shadow && g=$((g+2))
head -c 512 disk && g=$((g+4))
cat shadow && g=$((g+8))
echo evil > kmsg && g=$((g+16))
exit $g
`); err != nil {
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
	var status, signal int
	if _, err := fmt.Sscanf(end.ExitCode, "%d:%d", &status, &signal); err != nil || status&64 == 0 || signal != 0 {
		return fmt.Errorf("the job is %s with %s: %s", end.State, end.ExitCode, end.Output)
	}
	var had []string
	for _, g := range gains {
		if status&g.bit != 0 {
			had = append(had, g.what)
		}
	}
	if len(had) > 0 {
		return got("%s", strings.Join(had, "; "))
	}
	return idle(ctx, s, cluster.S2)
}

// hostileSize is the size of the file system, in bytes.
const hostileSize = 8 << 20

// makeHostileVolume writes a volume that package volume would not make, and
// puts its keys into alice's store. disk is a device's number: "254 0".
func makeHostileVolume(ctx context.Context, s *deploy.Site, name, disk string) error {
	dir, err := os.MkdirTemp("", "hostile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "ext4")
	// struct vfs_cap_data of linux/capability.h: revision 2, effective, CAP_DAC_READ_SEARCH.
	var capability []byte
	for _, word := range []uint32{0x02000001, 1 << 2, 0, 0, 0} {
		capability = binary.LittleEndian.AppendUint32(capability, word)
	}
	if err := os.WriteFile(filepath.Join(dir, "capability"), capability, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(image, make([]byte, hostileSize), 0o600); err != nil {
		return err
	}
	commands := strings.NewReplacer("DIR", dir, "DISK", disk).Replace(`write /bin/cat setuid
set_inode_field setuid mode 0104755
set_inode_field setuid uid 0
write /bin/cat capable
set_inode_field capable mode 0100755
ea_set -f DIR/capability capable security.capability
mknod disk b DISK
set_inode_field disk mode 060666
mknod kmsg c 1 11
set_inode_field kmsg mode 020666
symlink shadow /etc/shadow
mkdir out
set_inode_field out mode 041777
`)
	if err := os.WriteFile(filepath.Join(dir, "commands"), []byte(commands), 0o600); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", image},
		{"debugfs", "-w", "-f", filepath.Join(dir, "commands"), image},
	} {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("making a hostile file system: %s: %w: %s", argv[0], err, out)
		}
	}
	plain, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	return encryptFor(s, name, plain)
}

// encryptFor makes a volume of alice's of a file system.
func encryptFor(s *deploy.Site, name string, plain []byte) error {
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, int64(len(plain)), true)
	if err != nil {
		return err
	}
	header, err := volume.HeaderForNewVolume(rand.Reader, pinned, "hostile", keys)
	if err != nil {
		return err
	}
	cipher, err := xts.New(keys.VolumeKey)
	if err != nil {
		return err
	}
	cipher.Encrypt(plain, plain, int(pinned.SectorSize), 0)
	file := append(bytes.Clone(header), make([]byte, pinned.PayloadOffset-int64(len(header)))...)
	if err := os.WriteFile(filepath.Join(s.LaptopDir("alice"), name), append(file, plain...), 0o600); err != nil {
		return err
	}
	return keystore.In(s.Home("alice")).Put(keystore.Volume{Name: name, Label: "hostile", Created: time.Now(), Pinned: pinned, Keys: keys})
}
