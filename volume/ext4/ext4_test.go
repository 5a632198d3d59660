package ext4

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// run runs a command of the host and fails the test when it fails, also when
// the command is missing.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if p, err := exec.LookPath(name); err == nil {
		cmd.Path = p
	} else {
		cmd.Path = filepath.Join("/usr/sbin", name)
	}
	cmd.Err = nil
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

type contents map[*Inode][]byte

func (c contents) open(i *Inode) (io.ReaderAt, error) { return bytes.NewReader(c[i]), nil }

// file makes a regular file; blocks of zeros become holes if sparse.
func (c contents) file(name string, b []byte, sparse bool) Entry {
	i := &Inode{Mode: typeRegular | 0o640, Size: int64(len(b)), Seconds: 1700000000, Nanos: 123456789, Path: name}
	if sparse {
		i.Holes = true
		for at := 0; at < len(b); at += BlockSize {
			if len(bytes.Trim(b[at:min(at+BlockSize, len(b))], "\x00")) > 0 {
				i.Data = append(i.Data, Run{uint32(at / BlockSize), 1})
			}
		}
	}
	c[i] = b
	return Entry{name, i}
}

func directory(name string, entries ...Entry) Entry {
	return Entry{name, &Inode{Mode: typeDir | 0o750, Seconds: 1600000000, Path: name, Entries: entries}}
}

func write(t testing.TB, root *Inode, c contents, opt Options) string {
	t.Helper()
	im, err := NewImage(root, opt)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(im.Size()); err != nil {
		t.Fatal(err)
	}
	const chunk = 37 // an odd number, so that regions are cut anywhere
	buf := make([]byte, chunk*BlockSize)
	for at := int64(0); at < im.Size()/BlockSize; at += chunk {
		n := im.Used(at, chunk)
		if err := im.Fill(buf[:n*BlockSize], at, c.open); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(buf[:n*BlockSize], at*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// read lists a file system by our own reader: path → description.
func read(t testing.TB, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := list(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func list(r io.ReaderAt, size int64) (map[string]string, error) { return listUpTo(r, size, 64<<20) }

// listUpTo leaves out files larger than limit.
func listUpTo(r io.ReaderAt, size, limit int64) (map[string]string, error) {
	out := map[string]string{}
	fs, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	err = fs.Walk(func(v Visit) error {
		d := fmt.Sprintf("%o %d.%09d", v.File.Mode, v.File.Seconds, v.File.Nanos)
		xs, err := v.File.Xattrs()
		if err != nil {
			return err
		}
		for _, x := range xs {
			d += fmt.Sprintf(" %s=%s", x.Name, sum(x.Value))
		}
		switch {
		case v.First != "":
			d += " = " + v.First
		case v.File.IsSymlink():
			target, err := v.File.Readlink()
			if err != nil {
				return err
			}
			d += " -> " + target
		case v.File.IsRegular():
			ex, err := v.File.Extents()
			if err != nil {
				return err
			}
			if v.File.Size > limit {
				return nil
			}
			b := make([]byte, v.File.Size)
			n := int64(0)
			for _, e := range ex {
				n += e.Count
				from := e.Logical * BlockSize
				if from >= v.File.Size {
					continue
				}
				to := min(from+e.Count*BlockSize, v.File.Size)
				if _, err := r.ReadAt(b[from:to], e.Physical*BlockSize); err != nil {
					return err
				}
			}
			d += fmt.Sprintf(" %d %d %s", v.File.Size, n, sum(b))
		}
		out[v.Path()] = d
		return nil
	}, func(string) error { return nil })
	return out, err
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:6])
}

func TestE2fsckFindsNothingToSayAboutOurImages(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	random := func(n int) []byte {
		b := make([]byte, n)
		rnd.Read(b)
		return b
	}
	cases := map[string]func(c contents) (*Inode, Options){
		"empty": func(c contents) (*Inode, Options) { return directory(".").Inode, Options{} },
		"mixed": func(c contents) (*Inode, Options) {
			hard := c.file("hard", random(5000), false)
			odd := c.file("xattrs", random(1), false)
			odd.Inode.Xattrs = []Xattr{{"b", []byte("value")}, {"a", nil}, {"long", random(3000)}}
			small := c.file("small-xattr", nil, false)
			small.Inode.Xattrs = []Xattr{{"origin", []byte("ward 7")}}
			holes := make([]byte, 300*BlockSize+17)
			for k := 0; k < 300; k += 7 {
				copy(holes[k*BlockSize:], "data")
			}
			return directory(".", hard, odd, small,
				c.file("empty", nil, false), c.file("one", []byte("x"), false), c.file("big", random(3<<20+5), false),
				c.file("holes", holes, true), c.file("all-hole", make([]byte, 1<<20), true),
				directory("sub", directory("deeper", Entry{"again", hard.Inode}), c.file(strings.Repeat("n", 255), []byte("long name"), false)),
				Entry{"fast", &Inode{Mode: typeSymlink | 0o777, Target: strings.Repeat("f", 59), Path: "fast"}},
				Entry{"slow", &Inode{Mode: typeSymlink | 0o777, Target: strings.Repeat("s", 60), Path: "slow"}},
				Entry{"slowest", &Inode{Mode: typeSymlink | 0o777, Target: strings.Repeat("/x", 2000), Path: "slowest"}},
				Entry{"old", &Inode{Mode: typeRegular | 0o400, Seconds: -1000, Path: "old"}},
				Entry{"future", &Inode{Mode: typeRegular | 0o400, Seconds: 1 << 33, Nanos: 5, Path: "future"}},
			).Inode, Options{Label: "patients", Seconds: 1700000000, UUID: [16]byte{1, 2, 3}}
		},
		"many files": func(c contents) (*Inode, Options) {
			var e []Entry
			for k := range 40000 {
				e = append(e, c.file(fmt.Sprintf("file-with-a-name-%d", k), nil, false))
			}
			return directory(".", directory("d", e...)).Inode, Options{}
		},
		"room to grow": func(c contents) (*Inode, Options) {
			return directory(".", c.file("a", random(10), false)).Inode, Options{Free: 30 << 30}
		},
		"deep extent tree": func(c contents) (*Inode, Options) {
			b := make([]byte, 6000*BlockSize) // every other block: 3000 extents, two levels
			for k := 0; k < 6000; k += 2 {
				b[k*BlockSize] = byte(k)
				b[k*BlockSize+1] = 1
			}
			return directory(".", c.file("comb", b, true)).Inode, Options{}
		},
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			c := contents{}
			root, opt := make(c)
			path := write(t, root, c, opt)
			run(t, "e2fsck", "-fn", path)
			got := read(t, path)
			for _, e := range root.Entries {
				if _, ok := got[e.Name]; !ok && e.Name != lostAndFound {
					t.Errorf("%s is missing from what our reader lists", e.Name)
				}
			}
			for i, b := range c {
				if d := got[i.Path]; strings.HasPrefix(i.Path, "file-") || strings.HasPrefix(i.Path, "n") {
					continue
				} else if !strings.HasSuffix(d, sum(b)) {
					t.Errorf("%s: %s, want contents %s", i.Path, d, sum(b))
				}
				dump := filepath.Join(t.TempDir(), "dump")
				run(t, "debugfs", "-R", "dump "+i.Path+" "+dump, path)
				d, err := os.ReadFile(dump)
				if err != nil || !bytes.Equal(d, b) {
					t.Errorf("%s: debugfs reads something else (%v)", i.Path, err)
				}
			}
			damage(t, path)
		})
	}
}

// damage shows that e2fsck could have complained.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xAA}, 4096+0xC); err != nil {
		t.Fatal(err)
	}
	if exec.Command("/sbin/e2fsck", "-fn", path).Run() == nil {
		t.Error("e2fsck accepts a damaged descriptor: this test can't fail")
	}
}

// source makes a directory for mke2fs -d with what an ordinary user can make.
func source(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(n string) string { return filepath.Join(dir, n) }
	must(os.MkdirAll(p("sub/deeper"), 0o750))
	must(os.MkdirAll(p("many"), 0o755))
	must(os.WriteFile(p("a"), []byte("hello"), 0o604))
	must(os.WriteFile(p("big"), bytes.Repeat([]byte("0123456789abcdef"), 200000), 0o600))
	must(os.Link(p("a"), p("sub/hard")))
	must(os.Symlink("a", p("fast")))
	must(os.Symlink(strings.Repeat("/very-long", 20), p("sub/slow")))
	for k := range 800 {
		must(os.WriteFile(p(fmt.Sprintf("many/file-with-a-long-name-%04d", k)), []byte{byte(k)}, 0o644))
	}
	f, err := os.Create(p("sparse"))
	must(err)
	for k := range 500 {
		_, err := f.WriteAt([]byte("x"), int64(k)*3*BlockSize)
		must(err)
	}
	must(f.Truncate(40 << 20))
	must(f.Close())
	return dir
}

func TestOurReaderReadsWhatMke2fsWrites(t *testing.T) {
	src := source(t)
	for name, args := range map[string][]string{
		"defaults":    nil,
		"trixie":      {"-O", "metadata_csum_seed,orphan_file,64bit"},
		"no checksum": {"-O", "^metadata_csum,^64bit"},
		"old groups":  {"-O", "^flex_bg,^resize_inode,^has_journal"},
		"big inodes":  {"-I", "1024"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			run(t, "mke2fs", append([]string{"-q", "-t", "ext4", "-b", "4096", "-d", src, path, "300M"}, args...)...)
			got := read(t, path)
			compare(t, src, got)
			// e2fsck -D builds hash trees for large directories.
			exec.Command("/sbin/e2fsck", "-fyD", path).Run()
			compare(t, src, read(t, path))
		})
	}
}

func compare(t *testing.T, src string, got map[string]string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(src, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(src, p)
		if rel == "." {
			return err
		}
		n++
		info, err := d.Info()
		if err != nil {
			return err
		}
		desc := got[rel]
		if want := fmt.Sprintf("%o %d.", info.Mode().Perm(), info.ModTime().Unix()); !strings.Contains(desc, want) {
			t.Errorf("%s: %q does not show %q", rel, desc, want)
		}
		switch {
		case d.Type() == os.ModeSymlink:
			target, _ := os.Readlink(p)
			if !strings.HasSuffix(desc, " -> "+target) {
				t.Errorf("%s: %q does not point to %q", rel, desc, target)
			}
		case d.Type().IsRegular() && !strings.Contains(desc, " = "):
			b, err := os.ReadFile(p)
			if err != nil || !strings.HasSuffix(desc, sum(b)) {
				t.Errorf("%s: %q has other contents (%v)", rel, desc, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != len(got) {
		t.Errorf("%d names read, %d in the source", len(got), n)
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if strings.Contains(got[k], " = ") && k != "a" && k != "sub/hard" {
			t.Errorf("%s is no hard link: %s", k, got[k])
		}
	}
}

// streamed writes the contents first, in the order of the entries, then the
// rest.
func streamed(t testing.TB, root *Inode, c contents, opt Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opt.Stream = NewStream()
	for _, e := range root.Entries {
		b := c[e.Inode]
		opt.Stream.Begin(e.Inode)
		for at := 0; at < len(b); at += BlockSize {
			block := b[at:min(at+BlockSize, len(b))]
			if len(bytes.Trim(block, "\x00")) == 0 {
				continue
			}
			if _, err := f.WriteAt(block, opt.Stream.Offset()); err != nil {
				t.Fatal(err)
			}
			if err := opt.Stream.Add(e.Inode, uint32(at/BlockSize)); err != nil {
				t.Fatal(err)
			}
		}
	}
	im, err := NewImage(root, opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(im.Size()); err != nil {
		t.Fatal(err)
	}
	for _, r := range im.Own() {
		buf := make([]byte, r[1]*BlockSize)
		if err := im.Fill(buf, r[0], nil); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(buf, r[0]*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestE2fsckFindsNothingToSayAboutAStreamedImage(t *testing.T) {
	for name, opt := range map[string]Options{"fitted": {}, "room": {Free: 20 << 30}, "size": {Size: 300 << 20}} {
		t.Run(name, func(t *testing.T) {
			c := contents{}
			big := make([]byte, 150<<20) // into the second group
			for at := 0; at < len(big); at += 5 * BlockSize {
				copy(big[at:], "data")
			}
			root := directory(".", c.file("big", big, false), c.file("empty", nil, false), c.file("small", []byte("x"), false)).Inode
			path := streamed(t, root, c, opt)
			run(t, "e2fsck", "-fn", path)
			got, err := listUpTo(must(os.Open(path)), must(os.Stat(path)).Size(), 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range c {
				if !strings.HasSuffix(got[i.Path], sum(b)) {
					t.Errorf("%s: %s, want contents %s", i.Path, got[i.Path], sum(b))
				}
			}
			damage(t, path)
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestASizeThatIsAskedForIsKeptOrRefused(t *testing.T) {
	c := contents{}
	make := func() *Inode { return directory(".", c.file("a", make([]byte, 1<<20), false)).Inode }
	path := write(t, make(), c, Options{Size: 500 << 20})
	if st := must(os.Stat(path)); st.Size() != 500<<20 {
		t.Errorf("%d bytes", st.Size())
	}
	run(t, "e2fsck", "-fn", path)
	if _, err := NewImage(make(), Options{Size: 1 << 20}); !errors.Is(err, ErrTooSmall) {
		t.Errorf("too small: %v", err)
	}
}

func TestE2fsckFindsNothingToSayAboutAJournalledImageOfAnySizeOnGarbage(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	written := map[int64]int64{}
	for _, size := range []int64{4 << 20, 8 << 20, 16 << 20, 32 << 20, 128<<20 - BlockSize, 128 << 20, 1 << 30, 1<<30 + 5*BlockSize, 20 << 30, 2 << 40} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			opt := Options{Size: size, Journal: true, Seconds: 1700000000, UUID: [16]byte{1, 2, 3}}
			im, err := NewImage(directory(".").Inode, opt)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "image")
			f := must(os.Create(path))
			defer f.Close()
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			// What was not written reads as noise on an encrypted device.
			garbage := make([]byte, 1<<20)
			rnd.Read(garbage)
			for at := int64(0); at < min(size, 64<<20); at += int64(len(garbage)) {
				f.WriteAt(garbage[:min(int64(len(garbage)), size-at)], at)
			}
			n, err := im.WriteUsed(f)
			if err != nil {
				t.Fatal(err)
			}
			written[size] = n
			out := run(t, "e2fsck", "-fn", path)
			if strings.Contains(out, "?") {
				t.Errorf("e2fsck:\n%s", out)
			}
			features := run(t, "dumpe2fs", "-h", path)
			if want := size >= 8<<20; strings.Contains(features, "has_journal") != want || !strings.Contains(features, "dir_index") {
				t.Errorf("features:\n%s", features)
			}
		})
	}
	t.Logf("written: %v", written)
	if written[20<<30] > 1<<20 {
		t.Errorf("%d bytes were written for 20 GiB", written[20<<30])
	}
}

func TestAStreamThatJustFitsItsSizeFits(t *testing.T) {
	c := contents{}
	full := make([]byte, 60<<20)
	for at := 0; at < len(full); at += BlockSize {
		full[at] = 1
	}
	root := directory(".", c.file("a", full, false)).Inode
	path := streamed(t, root, c, Options{Size: 60<<20 + 1100<<10})
	run(t, "e2fsck", "-fn", path)
}
