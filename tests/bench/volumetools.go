package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"filippo.io/age"
)

// A fileSet is a directory that becomes a volume. Its bytes do not compress
// and leave no holes.
type fileSet struct {
	name         string
	dirs, inEach int
	size         int64 // of a file, in bytes
}

var (
	largeFiles = fileSet{"64 files of 32 MiB", 1, 64, 32 << 20}
	smallFiles = fileSet{"50000 files of 4 KiB", 100, 500, 4 << 10}
)

func (s fileSet) bytes() int64 { return int64(s.dirs*s.inEach) * s.size }

func (s fileSet) fill(dir string) error {
	// What the files hold is no secret: any stream that is not all zeros does.
	stream := rand.NewChaCha8([32]byte{1})
	for d := range s.dirs {
		sub := filepath.Join(dir, fmt.Sprintf("series-%02d", d))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return err
		}
		for i := range s.inEach {
			f, err := os.Create(filepath.Join(sub, fmt.Sprintf("scan-%03d.dcm", i)))
			if err != nil {
				return err
			}
			_, err = io.CopyN(f, stream, s.size)
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// A tool takes the directory "from" and makes something encrypted of it, and
// from that the directory "to". Each field is a line of shell; only in and out
// are timed.
type tool struct {
	name, inName, outName   string
	setUp, in, between, out string
	compare                 string
	largeOnly, showPeak     bool
}

const (
	mountPoint = "mnt"
	passFile   = "pass"
	identity   = "identity"
	recipient  = "recipient"

	qemuSecret = "--object secret,id=k,file=" + passFile
)

// leftovers is what a tool may leave behind in its directory.
var leftovers = []string{"to", "v", mountPoint, "raw"}

// tools are what is compared, the measure first. No key derivation is timed
// that could be left out: age has a key pair; gocryptfs and qemu-img have to
// run theirs and get the least that they accept. Cloister's keyslot holds a
// random key and needs none.
var tools = []tool{
	{name: "cp -r", in: "cp -r from to", compare: "diff -r from to"},
	{
		name: "cloister volume", inName: "create", outName: "extract", showPeak: true,
		in: "exec cloister volume create v --from from >/dev/null", out: "exec cloister volume extract v --to to >/dev/null",
		compare: "diff -r from to",
	},
	{name: "read, encrypt, hash, write", in: "least from v", largeOnly: true},
	{
		name: "tar | age", inName: "encrypt", outName: "decrypt",
		in:      `tar -cf - from | age -r "$(cat ` + recipient + `)" -o v`,
		out:     "mkdir to; age -d -i " + identity + " v | tar -xf - -C to",
		compare: "diff -r from to/from",
	},
	{
		name: "gocryptfs, cp -r", inName: "in", outName: "out",
		setUp:   "mkdir v " + mountPoint + "; gocryptfs -q -init -scryptn 10 -passfile " + passFile + " v",
		in:      mounted("cp -r from " + mountPoint + "/"),
		out:     mounted("cp -r " + mountPoint + "/from to"),
		compare: "diff -r from to",
	},
	{
		// One image of the same size: no file system is made, walked or filled.
		// Making the header, untimed, fails now and then where the processor is
		// shared ("unable to get accurate CPU usage").
		name: "qemu-img convert", inName: "to luks", outName: "to raw", largeOnly: true,
		setUp: "cat from/*/* >raw; for try in {1..20}; do " +
			"qemu-img create -q " + qemuSecret + " -f luks -o key-secret=k,iter-time=10 v $(stat -c %s raw) && break; done",
		in:      "qemu-img convert -n " + qemuSecret + " -f raw raw --target-image-opts driver=luks,key-secret=k,file.filename=v",
		between: "rm raw",
		out:     "qemu-img convert " + qemuSecret + " --image-opts driver=luks,key-secret=k,file.filename=v -O raw to",
		compare: "cat from/*/* | cmp - to",
	},
}

func mounted(line string) string {
	return "gocryptfs -q -passfile " + passFile + " v " + mountPoint + "; " + line + "; fusermount -u " + mountPoint
}

// prepare builds age and least, and makes the keys of the others.
func (r rounds) prepare(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", r.dir+"/", "filippo.io/age/cmd/age", "cloister/tests/bench/least").CombinedOutput(); err != nil {
		return fmt.Errorf("building age and least: %w: %s", err, out)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{passFile: "no secret", identity: id.String(), recipient: id.Recipient().String()} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
