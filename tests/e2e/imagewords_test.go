//go:build cluster

package e2e

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"

	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// badImages writes an image of each kind that nodes refuse to a directory. All
// but the first three are signed as they should be.
func badImages(t *testing.T, dir string) (names []string) {
	t.Helper()
	images, err := analysis.Tiny(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read := func(file string) []byte {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(name string, b []byte) string {
		names = append(names, name)
		path := filepath.Join(dir, name+".sif")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("unsigned", read(images.Unsigned))
	write("stranger", read(images.Stranger))
	write("script", []byte("#!/bin/sh\necho I am no image\n"))
	altered := read(images.SIF)
	altered[40000] ^= 1 // in the partition
	write("altered", altered)
	write("cut", read(images.SIF)[:50000])

	extra, err := sif.LoadContainerFromPath(write("extra", read(images.SIF)), sif.OptLoadWithFlag(os.O_RDWR))
	if err != nil {
		t.Fatal(err)
	}
	object, err := sif.NewDescriptorInput(sif.DataGeneric, strings.NewReader("evil"))
	if err == nil {
		err = errors.Join(extra.AddObject(object), extra.UnloadContainer())
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string]struct {
		fs   sif.FSType
		kind sif.PartType
		arch string
	}{
		"type5":    {sif.FsEncryptedSquashfs, sif.PartPrimSys, "amd64"},
		"ext3":     {sif.FsExt3, sif.PartPrimSys, "amd64"},
		"arm64":    {sif.FsSquash, sif.PartPrimSys, "arm64"},
		"overlay":  {sif.FsSquash, sif.PartOverlay, "amd64"},
		"nosquash": {sif.FsSquash, sif.PartPrimSys, "amd64"},
	} {
		path := write(name, nil)
		in, err := sif.NewDescriptorInput(sif.DataPartition, bytes.NewReader(make([]byte, 8192)), sif.OptPartitionMetadata(part.fs, part.kind, part.arch))
		if err == nil {
			err = signedImage(t, path, in)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// signedImage makes an image of one object, signed with the cluster's key.
func signedImage(t *testing.T, path string, in sif.DescriptorInput) error {
	t.Helper()
	key, err := analysis.SigningKey(t.Context())
	if err != nil {
		return err
	}
	img, err := sif.CreateContainerAtPath(path, sif.OptCreateWithDescriptors(in))
	if err != nil {
		return err
	}
	when := func() time.Time { return key.PrimaryKey.CreationTime.Add(time.Hour) }
	s, err := integrity.NewSigner(img, integrity.OptSignWithEntity(key), integrity.OptSignWithTime(when))
	if err != nil {
		return err
	}
	return errors.Join(s.Sign(), img.UnloadContainer())
}

// about finds what is said of an image, and what to do.
func about(image, text string) (reason, next string) {
	if m := regexp.MustCompile(`(?m)image \S*` + regexp.QuoteMeta(image) + `: (.+)$`).FindStringSubmatch(text); m != nil {
		reason = m[1]
	}
	if m := regexp.MustCompile(`(?m)next: (.+)$`).FindStringSubmatch(text); m != nil {
		next = m[1]
	}
	return reason, next
}

const jobWithImage = queued + `#CLOISTER volume=words-NAME.luks:/results:rw,create,size=32M
#CLOISTER image=NAME.sif
echo ran
`

func TestALaptopSaysOfAnImageTheVeryWordsOfTheNode(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	images, err := analysis.Tiny(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CopyToLaptop("alice", images.Keyring, "keys.asc"); err != nil {
		t.Fatal(err)
	}
	check := func(args ...string) (reason, next string) {
		t.Helper()
		_, err := s.Laptop(ctx, "alice", append([]string{"image", "check", "--keys", "keys.asc"}, args...)...)
		var refused *deploy.LaptopError
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		if refused == nil {
			return "", ""
		}
		if refused.Exit != 3 {
			t.Errorf("image check %s: exit status %d", args[0], refused.Exit)
		}
		return about(args[0], refused.Stderr)
	}
	names := badImages(t, s.LaptopDir("alice"))
	jobs := make(map[string]uint32)
	for _, name := range names {
		if err := s.Upload(ctx, "alice", name+".sif"); err != nil {
			t.Fatal(err)
		}
		if err := s.Seal(ctx, "alice", name, strings.ReplaceAll(jobWithImage, "NAME", name)); err != nil {
			t.Fatal(err)
		}
		if jobs[name], err = s.Submit(ctx, "alice", "--secure "+name+".sealed"); err != nil {
			t.Fatal(err)
		}
	}
	said := make(map[string]string)
	for _, name := range names {
		end, err := s.Wait(ctx, "alice", jobs[name], limit)
		if err != nil {
			t.Fatal(err)
		}
		laptop, advice := check(name + ".sif")
		node, next := about(name+".sif", end.Output)
		if end.State != "FAILED" || node == "" || laptop != node || advice == "" || !strings.HasPrefix(next, advice) {
			t.Errorf("%s: the laptop says %q and %q, the node %q and %q; the job is %s: %s", name, laptop, advice, node, next, end.State, end.Output)
		}
		if before := said[node]; before != "" {
			t.Errorf("of %s and %s is said the same: %s", before, name, node)
		}
		said[node] = name
		t.Logf("%-9s %s", name, node)
	}
	clean(t, s, cluster.S2)

	// In a volume. The altered one is seen if its node reads it, and only then.
	software := filepath.Join(s.LaptopDir("alice"), "software")
	if err := os.Mkdir(software, 0o700); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{images.SIF: "good.sif", filepath.Join(s.LaptopDir("alice"), "altered.sif"): "altered.sif"} {
		if err := s.CopyToLaptop("alice", from, "software/"+to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Laptop(ctx, "alice", "volume", "create", "software.luks", "--from", "software"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "alice", "software.luks"); err != nil {
		t.Fatal(err)
	}
	inVolume := func(kind, name string) deploy.Ended {
		t.Helper()
		job := name + "-" + kind
		script := strings.ReplaceAll(jobWithImage, "image=NAME.sif", "volume=software.luks:/software:ro\n#CLOISTER image=/software/"+name+".sif")
		if err := s.Seal(ctx, "alice", job, strings.ReplaceAll(script, "NAME", job)); err != nil {
			t.Fatal(err)
		}
		end := run(t, s, "alice", job+".sealed")
		clean(t, s, cluster.S2)
		return end
	}
	if end := inVolume("pinned", "altered"); end.State != "COMPLETED" {
		t.Errorf("with in_volumes = \"pinned\" the job is %s: %s", end.State, end.Output)
	}
	if _, err := s.Output(ctx, cluster.S2, `printf '\n[images]\nin_volumes = "verified"\n' >> /etc/cloister/policy.toml && systemctl restart cloister-noded`); err != nil {
		t.Fatal(err)
	}
	if end := inVolume("verified", "good"); end.State != "COMPLETED" {
		t.Errorf("with in_volumes = \"verified\" a good image's job is %s: %s", end.State, end.Output)
	}
	end := inVolume("verified", "altered")
	laptop, _ := check("altered.sif", "--volume", "software.luks")
	node, _ := about("altered.sif", end.Output)
	if end.State != "FAILED" || node == "" || laptop != node {
		t.Errorf("in a volume: the laptop says %q, the node %q; the job is %s: %s", laptop, node, end.State, end.Output)
	}
	t.Logf("in a volume, read: %s", node)
}
