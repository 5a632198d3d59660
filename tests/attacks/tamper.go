package attacks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/client/keystore"
	"cloister/mutant"
	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
	"cloister/volume/xts"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// onTampering are attacks by who is root on the file server on what a job
// reads.
var onTampering = []Attack{
	{Number: 20, Who: "A1", Name: "bits of a read-only volume are flipped, its blocks exchanged, an older one put in its place", Long: true, Defences: defences(mutant.Verity), Try: tamperedVolume},
	{Number: 21, Who: "A1", Name: "an image is replaced, altered, added to, unsigned or signed by a stranger, or replaced while the job runs", Defences: defences(mutant.ImageDigest, mutant.ImageSignature), Try: tamperedImage},
}

// tamperedVolume gives a job two volumes, one made a sparse giant with a bit
// flipped in the block of the secret, the other with another block in its
// place, and a second job an older volume in the place of a newer one.
func tamperedVolume(ctx context.Context, s *deploy.Site) error {
	name := fresh("tampered")
	for _, v := range []string{"-flipped.luks", "-exchanged.luks", "-newer.luks"} {
		if err := s.MakeVolume(ctx, "alice", name+v, map[string]string{"secret.txt": Secret + "\n"}); err != nil {
			return err
		}
	}
	flip, was, err := secretAt(s, name+"-flipped.luks")
	if err != nil {
		return err
	}
	exchange, _, err := secretAt(s, name+"-exchanged.luks")
	if err != nil {
		return err
	}
	script := strings.Replace(job(name+".luks", "cat /data/secret.txt\ncat /other/secret.txt\ntrue\n"), "volume="+Volume+":/data:ro",
		"volume="+name+"-flipped.luks:/data:ro\n#CLOISTER volume="+name+"-exchanged.luks:/other:ro", 1)
	if err := s.Seal(ctx, "alice", name, script); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("cd %s && printf '\\%03o' | dd of=%s-flipped.luks bs=1 seek=%d conv=notrunc status=none && "+
		"dd if=%[3]s-exchanged.luks of=%[3]s-exchanged.luks bs=4096 skip=%[5]d seek=%[6]d count=1 conv=notrunc status=none && truncate -s 8T %[3]s-flipped.luks",
		deploy.Home("alice"), was^1, name, flip, exchange/blockSize-1, exchange/blockSize)); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return err
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	unread := 0
	for line := range strings.Lines(printed) {
		if !strings.HasPrefix(line, "cat: ") || !strings.HasSuffix(line, "Input/output error\n") {
			return got("the job read altered data")
		}
		unread++
	}
	if unread != 2 {
		return fmt.Errorf("%d of two files could not be read: %q", unread, printed)
	}
	return olderVolume(ctx, s, name)
}

func olderVolume(ctx context.Context, s *deploy.Site, name string) error {
	older := name + "-older"
	script := strings.Replace(job(older+"-results.luks", ""), "volume="+Volume, "volume="+name+"-newer.luks", 1)
	if err := s.Seal(ctx, "alice", older, script); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "cd "+deploy.Home("alice")+" && cp "+Volume+" "+name+"-newer.luks"); err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+older+".sealed", "is not the one that the manifest pins")
}

const blockSize = 4096

// secretAt finds the byte of a volume's file that holds the beginning of
// Secret, as only its owner can, and that byte.
func secretAt(s *deploy.Site, name string) (int64, byte, error) {
	found, err := keystore.In(s.Home("alice")).Named(name)
	if err != nil || len(found) != 1 {
		return 0, 0, fmt.Errorf("%d volumes %s in alice's store: %w", len(found), name, err)
	}
	v := found[0]
	file, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), name))
	if err != nil {
		return 0, 0, err
	}
	cipher, err := xts.New(v.Keys.VolumeKey)
	if err != nil {
		return 0, 0, err
	}
	plain := bytes.Clone(file[v.Pinned.PayloadOffset:][:v.Pinned.PayloadSize])
	cipher.Decrypt(plain, plain, int(v.Pinned.SectorSize), 0)
	i := bytes.Index(plain, []byte(Secret))
	if i < 0 {
		return 0, 0, fmt.Errorf("%s does not hold the secret", name)
	}
	at := v.Pinned.PayloadOffset + int64(i)
	return at, file[at], nil
}

// tamperedImage submits one sealed job with three files in its image's place,
// and some that were sealed for images which the node must not trust.
func tamperedImage(ctx context.Context, s *deploy.Site) error {
	images, err := analysis.Tiny(ctx)
	if err != nil {
		return err
	}
	home := deploy.Home("alice")
	name := fresh("image")
	sealFor := func(kind, file string) error {
		image := name + "-" + kind + ".sif"
		if err := s.CopyToLaptop("alice", file, image); err != nil {
			return err
		}
		if kind == "extra" {
			if err := addObject(filepath.Join(s.LaptopDir("alice"), image)); err != nil {
				return err
			}
		}
		if err := s.Upload(ctx, "alice", image); err != nil {
			return err
		}
		wait := ""
		if kind == "signed" { // so that it can be replaced meanwhile
			wait = "sleep 1000 || true\n"
		}
		return s.Seal(ctx, "alice", name+"-"+kind, strings.Replace(job(name+"-"+kind+".luks", wait+"apptainer -q exec "+image+" /bin/echo from the image\n"), "#CLOISTER output", "#CLOISTER image="+image+"\n#CLOISTER output", 1))
	}
	for kind, file := range map[string]string{"signed": images.SIF, "unsigned": images.Unsigned, "stranger": images.Stranger, "extra": images.SIF} {
		if err := sealFor(kind, file); err != nil {
			return err
		}
	}
	for _, c := range []struct{ kind, tamper, says string }{
		{"unsigned", "true", "not signed"},
		{"stranger", "true", "not allowed here"},
		{"extra", "true", "no signature covers"},
		// The last byte but a few of the partition, not of a header.
		{"signed", "printf X | dd of=IMAGE bs=1 seek=40000 conv=notrunc status=none", "SHA-256 differs"},
		{"signed", "cp " + name + "-stranger.sif IMAGE", "differs"},
		{"signed", "truncate -s 8T IMAGE", "size differs"},
	} {
		if _, err := s.Output(ctx, cluster.Head, "cd "+home+" && "+strings.ReplaceAll(c.tamper, "IMAGE", name+"-signed.sif")); err != nil {
			return err
		}
		if err := refused(ctx, s, "alice", "--secure "+name+"-"+c.kind+".sealed", c.says); err != nil {
			return fmt.Errorf("image %s after %q: %w", c.kind, c.tamper, err)
		}
	}
	return replacedWhileRunning(ctx, s, name)
}

// replacedWhileRunning puts the image back until the job runs.
func replacedWhileRunning(ctx context.Context, s *deploy.Site, name string) error {
	image := deploy.Home("alice") + "/" + name + "-signed.sif"
	if err := s.Upload(ctx, "alice", name+"-signed.sif"); err != nil {
		return err
	}
	id, err := s.Submit(ctx, "alice", "--secure "+name+"-signed.sealed")
	if err != nil {
		return err
	}
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.Head, "head -c $(stat -c %s "+image+") /dev/zero > "+image+".new && chmod 755 "+image+".new && cat "+image+".new > "+image+" && mv "+image+".new "+image); err != nil {
		return err
	}
	if _, err := s.Output(ctx, cluster.S2, "pkill -x sleep -u alice"); err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return got("the job did not get the image that was checked: %v", err)
	}
	printed, err := s.Results(ctx, "alice", name+"-signed.luks", "out.txt")
	if err != nil {
		return err
	}
	if !strings.HasSuffix(printed, "from the image\n") {
		return got("the job did not get the image that was checked: it printed %q", printed)
	}
	return idle(ctx, s, cluster.S2)
}

// addObject adds one to a SIF file, as everybody who can write it can.
func addObject(path string) error {
	image, err := sif.LoadContainerFromPath(path, sif.OptLoadWithFlag(os.O_RDWR))
	if err != nil {
		return err
	}
	extra, err := sif.NewDescriptorInput(sif.DataGeneric, strings.NewReader("evil"))
	if err != nil {
		return err
	}
	return errors.Join(image.AddObject(extra), image.UnloadContainer())
}
