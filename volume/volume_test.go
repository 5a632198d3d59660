package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloister/secret"
	"cloister/volume/verity"

	"golang.org/x/sys/unix"
)

// run runs a command of the host and fails the test when it fails, also when
// the command is missing: the oracle is part of the test.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		name = filepath.Join("/usr/sbin", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source makes a directory with one of everything that a volume keeps.
func source(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	p := func(n string) string { return filepath.Join(dir, n) }
	must(t, os.MkdirAll(p("empty"), 0o755))
	must(t, os.MkdirAll(p("sub/deeper/deepest"), 0o750))
	must(t, os.WriteFile(p("empty-file"), nil, 0o644))
	must(t, os.WriteFile(p("small.csv"), []byte("id,age\n1,50\n"), 0o604))
	must(t, os.WriteFile(p("sub/script.sh"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(p("sub/deeper/no-access"), []byte("x"), 0o400))
	must(t, os.WriteFile(p("sub/"+strings.Repeat("ü", 120)), []byte("long name"), 0o640))
	big := make([]byte, 5<<20+123)
	rand.Read(big)
	must(t, os.WriteFile(p("big.bin"), big, 0o600))
	must(t, os.Link(p("big.bin"), p("sub/deeper/hard")))
	must(t, os.Symlink("../small.csv", p("sub/up")))
	must(t, os.Symlink("/etc/passwd", p("sub/absolute")))
	must(t, os.Symlink(strings.Repeat("/long", 300), p("slow-link")))
	must(t, unix.Setxattr(p("small.csv"), "user.origin", []byte("ward 7"), 0))
	must(t, unix.Setxattr(p("sub/script.sh"), "user.long", bytes.Repeat([]byte("v"), 2000), 0))
	must(t, unix.Setxattr(p("sub"), "user.dir", []byte("yes"), 0))
	f, err := os.Create(p("sparse.dat"))
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 7<<20)
	must(t, err)
	must(t, f.Truncate(100<<20+1))
	must(t, f.Close())
	when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, n := range []string{"small.csv", "sub/deeper", "sub"} {
		must(t, os.Chtimes(p(n), when, when))
	}
	return dir
}

// describe maps every path to what a round trip must keep.
func describe(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	inodes := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Mode().String()
		st := info.Sys().(*syscall.Stat_t)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			out[rel] = "-> " + target
			return nil
		case info.Mode().IsRegular():
			if first := inodes[st.Ino]; first != "" {
				s += " = " + first
			}
			inodes[st.Ino] = rel
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			h := sha256.Sum256(b)
			s += fmt.Sprintf(" %d %x", len(b), h[:8])
		}
		for _, x := range []string{"user.origin", "user.long", "user.dir"} {
			v := make([]byte, 4096)
			if n, err := unix.Lgetxattr(p, x, v); err == nil {
				s += fmt.Sprintf(" %s=%.9s/%d", x, v, n)
			}
		}
		out[rel] = s + " " + info.ModTime().UTC().Format(time.RFC3339Nano)
		return nil
	}))
	return out
}

func makeVolume(t testing.TB, o CreateOptions) (Pinned, Keys) {
	t.Helper()
	o.Rand = rand.Reader
	p, k, err := Create(context.Background(), o)
	must(t, err)
	return p, k
}

func diff(t *testing.T, want, got map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s:\n want %s\n got  %s", k, v, got[k])
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s came from nowhere", k)
		}
	}
}

func TestADirectorySurvivesTheRoundTrip(t *testing.T) {
	src := source(t)
	for name, o := range map[string]CreateOptions{
		"for reading": {Label: "patients"},
		"for writing": {Writable: true, Free: 20 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o.Path, o.From = filepath.Join(dir, "v.luks"), src
			p, k := makeVolume(t, o)
			if (p.Verity == nil) != o.Writable {
				t.Error("a hash tree belongs to volumes for reading only")
			}
			st, err := os.Stat(o.Path)
			must(t, err)
			if st.Size() != p.End() || st.Mode().Perm() != 0o600 {
				t.Errorf("file of %d bytes, mode %v; pinned end %d", st.Size(), st.Mode(), p.End())
			}
			if blocks := st.Sys().(*syscall.Stat_t).Blocks * 512; blocks > 12<<20 {
				t.Errorf("%d bytes on disk: holes were written", blocks)
			}
			to := filepath.Join(dir, "out")
			sum, err := Extract(context.Background(), ExtractOptions{Path: o.Path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
			must(t, err)
			diff(t, describe(t, src), describe(t, to))
			if sum.Files != 8 || sum.Symlinks != 3 || sum.Directories != 4 || len(sum.Skipped) > 0 {
				t.Errorf("summary %+v", sum)
			}
			var out syscall.Stat_t
			must(t, syscall.Stat(filepath.Join(to, "sparse.dat"), &out))
			if out.Blocks*512 > 1<<20 {
				t.Errorf("the sparse file takes %d bytes on disk", out.Blocks*512)
			}
			n := 0
			must(t, List(o.Path, p, k.VolumeKey, func(Item) error { n++; return nil }))
			if n != 15 {
				t.Errorf("%d names listed", n)
			}
		})
	}
}

// decrypt writes the plain file system to a file, for the oracles only.
func decrypt(t testing.TB, path string, p Pinned, k Keys) string {
	t.Helper()
	v, err := openPayload(path, p, k.VolumeKey)
	must(t, err)
	defer v.Close()
	out := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(out)
	must(t, err)
	_, err = io.Copy(f, io.NewSectionReader(v, 0, p.PayloadSize))
	must(t, err)
	must(t, f.Close())
	return out
}

func TestTheStockProgramsAcceptEveryLayer(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.luks")
	p, k := makeVolume(t, CreateOptions{Path: path, From: source(t), Label: "patients"})
	keyFile := filepath.Join(dir, "key")
	must(t, os.WriteFile(keyFile, k.KeyslotKey.Reveal(), 0o600))
	run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", keyFile, path)
	dump := run(t, "cryptsetup", "luksDump", path)
	if want := fmt.Sprintf("length: %d", p.PayloadSize); !strings.Contains(dump, want) || !strings.Contains(dump, p.UUID) {
		t.Errorf("luksDump does not show %q or the UUID:\n%s", want, dump)
	}
	h, err := Info(path)
	must(t, err)
	if h.UUID != p.UUID || h.PayloadOffset != p.PayloadOffset || h.PayloadSize != p.PayloadSize || h.Label != "patients" {
		t.Errorf("the header says %+v", h)
	}
	// veritysetup wants the data at offset 0 of its device.
	all, err := os.ReadFile(path)
	must(t, err)
	data := filepath.Join(dir, "data")
	must(t, os.WriteFile(data, all[p.PayloadOffset:p.PayloadOffset+p.PayloadSize], 0o600))
	run(t, "veritysetup", "verify", "--no-superblock", "--format=1", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096",
		"--data-blocks="+strconv.FormatInt(p.PayloadSize/4096, 10), "--hash-offset="+strconv.FormatInt(p.Verity.HashOffset, 10),
		"--salt="+p.Verity.Salt, data, path, p.Verity.RootHash)
	run(t, "e2fsck", "-fn", decrypt(t, path, p, k))
}

func TestAFlippedBitIsAnErrorAndNeverWrongData(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.luks")
	src := filepath.Join(dir, "src")
	must(t, os.Mkdir(src, 0o700))
	content := bytes.Repeat([]byte("0123456789abcdef"), 40000)
	must(t, os.WriteFile(filepath.Join(src, "f"), content, 0o600))
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	good, err := os.ReadFile(path)
	must(t, err)
	corrupt := 0
	for at := p.PayloadOffset; at < p.End(); at += 4096 {
		bad := bytes.Clone(good)
		bad[at+100] ^= 0x10
		must(t, os.WriteFile(path, bad, 0o600))
		to := filepath.Join(dir, "out")
		_, err := Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
		if err == nil { // the bit lies in a block that isn't read
			got, err := os.ReadFile(filepath.Join(to, "f"))
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("flipped bit at %d gave wrong data (%v)", at, err)
			}
			must(t, os.RemoveAll(to))
			continue
		}
		corrupt++
		if !errors.Is(err, verity.ErrCorrupt) {
			t.Errorf("flipped bit at %d: %v", at, err)
		}
		nothingLeft(t, dir, "v.luks", "src")
	}
	if corrupt < len(content)/4096 {
		t.Errorf("only %d flipped bits were noticed", corrupt)
	}
}

func nothingLeft(t testing.TB, dir string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != len(but) {
		t.Errorf("left behind: %v", entries)
	}
}

func TestTheHeaderInTheFileHasNoEffect(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.luks")
	src := source(t)
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	garbage := make([]byte, p.PayloadOffset)
	rand.Read(garbage)
	_, err = f.WriteAt(garbage, 0)
	must(t, err)
	must(t, f.Close())
	if _, err := Info(path); err == nil {
		t.Error("the header should be gone")
	}
	to := filepath.Join(dir, "out")
	_, err = Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
	must(t, err)
	diff(t, describe(t, src), describe(t, to))
}

func TestBadInputGivesAnErrorAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	src := source(t)
	path := filepath.Join(dir, "v.luks")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	ctx := context.Background()
	if _, _, err := Create(ctx, CreateOptions{Path: path, From: src, Rand: rand.Reader}); !errors.Is(err, ErrExists) {
		t.Errorf("an existing file: %v", err)
	}
	if _, _, err := Create(ctx, CreateOptions{Path: filepath.Join(src, "sub", "v"), From: src, Rand: rand.Reader}); err == nil || !strings.Contains(err.Error(), "inside") {
		t.Errorf("a volume inside its own source: %v", err)
	}
	fifo := t.TempDir()
	must(t, os.Mkdir(filepath.Join(fifo, "d"), 0o700))
	must(t, unix.Mkfifo(filepath.Join(fifo, "d/pipe"), 0o600))
	if _, _, err := Create(ctx, CreateOptions{Path: filepath.Join(dir, "w"), From: fifo, Rand: rand.Reader}); err == nil || !strings.Contains(err.Error(), "d/pipe is a FIFO") {
		t.Errorf("a FIFO: %v", err)
	}
	if _, _, err := Create(ctx, CreateOptions{Path: filepath.Join(dir, "w"), From: filepath.Join(dir, "absent"), Rand: rand.Reader}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no source: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	_, _, err := Create(cancelled, CreateOptions{Path: filepath.Join(dir, "w"), From: src, Rand: rand.Reader, Progress: func(done, total int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	nothingLeft(t, dir, "v.luks")

	wrong, err := NewKeys(rand.Reader)
	must(t, err)
	short := filepath.Join(t.TempDir(), "short")
	must(t, exec.Command("cp", path, short).Run())
	must(t, os.Truncate(short, p.End()-1))
	full := filepath.Join(t.TempDir(), "full")
	must(t, os.MkdirAll(filepath.Join(full, "x"), 0o700))
	for want, o := range map[string]ExtractOptions{
		"wrong key":        {Path: path, To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: wrong.VolumeKey},
		"want 64":          {Path: path, To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: secret.Alloc(32)},
		"cut off":          {Path: short, To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: k.VolumeKey},
		"not empty":        {Path: path, To: full, Pinned: p, VolumeKey: k.VolumeKey},
		"not a regular":    {Path: "/dev/zero", To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: k.VolumeKey},
		"no such file":     {Path: filepath.Join(dir, "absent"), To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: k.VolumeKey},
		"syntax error":     {Path: path, To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: k.VolumeKey, Only: "["},
		"nothing":          {Path: path, To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: k.VolumeKey, Only: "absent*"},
		"cipher":           {Path: path, To: filepath.Join(dir, "o"), VolumeKey: k.VolumeKey},
		"context canceled": {Path: path, To: filepath.Join(dir, "o"), Pinned: p, VolumeKey: k.VolumeKey},
	} {
		use, cancel := context.WithCancel(ctx)
		if want == "context canceled" {
			o.Progress = func(int64, int64) { cancel() }
		}
		_, err := Extract(use, o)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
		nothingLeft(t, dir, "v.luks")
	}
}

func TestAFullDiskLeavesNothing(t *testing.T) {
	dir, src := t.TempDir(), source(t)
	// A limit on the size of files stands for a full disk. Go ends a program
	// at SIGXFSZ unless it is ignored.
	child := exec.Command(os.Args[0], "-test.run=TestChildCreatesUnderALimit")
	child.Env = append(os.Environ(), "VOLUME_TEST_DIR="+dir, "VOLUME_TEST_FROM="+src)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "file too large") {
		t.Errorf("%v: %s", err, out)
	}
	nothingLeft(t, dir)
}

func TestOnlyTakesWhatMatches(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.luks")
	src := source(t)
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	all := describe(t, src)
	for pattern, want := range map[string][]string{
		"*.csv":      {"small.csv"},
		"sub/deeper": {"sub", "sub/deeper", "sub/deeper/deepest", "sub/deeper/no-access", "sub/deeper/hard"},
		"hard":       {"sub", "sub/deeper", "sub/deeper/hard"},
	} {
		to := filepath.Join(t.TempDir(), "out")
		_, err := Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey, Only: pattern})
		must(t, err)
		exp := map[string]string{}
		for _, w := range want {
			exp[w] = strings.Replace(all[w], " = big.bin", "", 1)
		}
		diff(t, exp, describe(t, to))
	}
}

func TestANewVolumesHeaderOpensWithCryptsetup(t *testing.T) {
	p, k, err := PlanNewVolume(rand.Reader, 1<<30-5, false)
	must(t, err)
	head, err := HeaderForNewVolume(rand.Reader, p, "results", k)
	must(t, err)
	if int64(len(head)) > p.PayloadOffset || p.PayloadSize != 1<<30 || p.Verity != nil || p.Integrity == nil {
		t.Errorf("%d bytes of header, pinned %+v", len(head), p)
	}
	path := filepath.Join(t.TempDir(), "v")
	must(t, os.WriteFile(path, head, 0o600))
	must(t, os.Truncate(path, p.End()))
	key := filepath.Join(t.TempDir(), "k")
	must(t, os.WriteFile(key, k.KeyslotKey.Reveal(), 0o600))
	run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", key, path)
	h, err := Info(path)
	must(t, err)
	if h.PayloadSize != p.AreaSize() || !h.Authenticated || h.PayloadOffset != p.PayloadOffset || h.UUID != p.UUID {
		t.Errorf("header %+v, pinned %+v", h, p)
	}
}

func TestTwoVolumesOfOneDirectoryShareNothing(t *testing.T) {
	dir := t.TempDir()
	src := source(t)
	a, ka := makeVolume(t, CreateOptions{Path: filepath.Join(dir, "a"), From: src})
	b, kb := makeVolume(t, CreateOptions{Path: filepath.Join(dir, "b"), From: src})
	if ka.VolumeKey.Equal(kb.VolumeKey) || ka.KeyslotKey.Equal(kb.KeyslotKey) || a.UUID == b.UUID || a.Verity.Salt == b.Verity.Salt {
		t.Error("keys, UUID or salt repeat")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "a"))
	must(t, err)
	for _, plain := range [][]byte{[]byte("id,age"), []byte("small.csv"), []byte("ward 7"), ka.VolumeKey.Reveal(), ka.KeyslotKey.Reveal(), []byte(hex.EncodeToString(ka.VolumeKey.Reveal()))} {
		if bytes.Contains(raw, plain) {
			t.Errorf("%d bytes of plaintext or key stand in the file", len(plain))
		}
	}
	if len(maps.Collect(maps.All(describe(t, src)))) == 0 {
		t.Error("the source is empty: this test can't fail")
	}
}
