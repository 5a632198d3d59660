package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/volume/ext4"
)

// archive packs a directory with GNU tar.
func archive(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("tar", append([]string{"--format=pax", "--xattrs", "--sparse", "-C", dir, "-cf", "-"}, append(args, ".")...)...).Output()
	must(t, err)
	return out
}

func TestATarStreamBecomesTheSameVolumeAsItsDirectory(t *testing.T) {
	src := source(t)
	stream := archive(t, src)
	for name, o := range map[string]CreateOptions{
		"for reading": {},
		"for writing": {Writable: true, Free: 20 << 20},
		"hidden":      {Writable: true, Size: 64 << 20, HideFreeSpace: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o.Path, o.Tar = filepath.Join(dir, "v.luks"), bytes.NewReader(stream)
			p, k := makeVolume(t, o)
			run(t, "e2fsck", "-fn", decrypt(t, o.Path, p, k))
			_, err := Check(context.Background(), CheckOptions{Path: o.Path, Pinned: p, VolumeKey: k.VolumeKey})
			must(t, err)
			to := filepath.Join(dir, "out")
			_, err = Extract(context.Background(), ExtractOptions{Path: o.Path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
			must(t, err)
			diff(t, describe(t, src), describe(t, to))
			onDisk := blocksOf(t, o.Path)
			if hidden := onDisk >= p.PayloadSize; hidden != o.HideFreeSpace {
				t.Errorf("%d bytes on disk, payload of %d", onDisk, p.PayloadSize)
			}
			nothingLeft(t, dir, "v.luks", "out")
		})
	}
}

// entries makes a tar stream of headers; files hold as many letters as they
// say.
func entries(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		must(t, w.WriteHeader(&h))
		_, err := io.Copy(w, io.LimitReader(letters{}, h.Size))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

type letters struct{}

func (letters) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'a'
	}
	return len(b), nil
}

func TestATarStreamThatLeadsOutOrIsBrokenIsRefusedAndLeavesNothing(t *testing.T) {
	file := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 9000, Mode: 0o644}
	}
	whole := entries(t, file("a"), file("b"))
	for want, stream := range map[string][]byte{
		"leads out":          entries(t, file("a"), file("../up")),
		"leads out of the a": entries(t, file("x/../../up")),
		"/abs":               entries(t, file("/abs")),
		"comes twice":        entries(t, file("a"), file("./a")),
		"is no directory":    entries(t, file("a"), file("a/b")),
		"no file that came":  entries(t, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "later"}),
		"holds only files":   entries(t, tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}),
		"unexpected EOF":     whole[:len(whole)/2],
		"it is empty":        nil,
		"invalid tar header": []byte(strings.Repeat("no tar stream", 100)),
	} {
		dir := t.TempDir()
		_, _, err := Create(context.Background(), CreateOptions{Path: filepath.Join(dir, "v"), Tar: bytes.NewReader(stream), Rand: rand.Reader})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
		nothingLeft(t, dir)
	}
}

func TestATarStreamIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	_, _, err := Create(ctx, CreateOptions{
		Path: filepath.Join(dir, "v"), Rand: rand.Reader,
		Tar:      bytes.NewReader(entries(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 20 << 20})),
		Progress: func(int64, int64) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

// FuzzTar reads any stream; what is accepted can be laid out, and every file's
// blocks came.
func FuzzTar(f *testing.F) {
	f.Add(entries(f, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Size: 5000},
		tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "d/f"}, tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "../x"}))
	f.Add(entries(f, tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{tarXattr + "a": "b"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		in := newTarTree(bytes.NewReader(b))
		next := int64(ext4.StreamStart) * ext4.BlockSize
		err := in.read(func(b batch) error {
			if b.off != next || len(b.data) == 0 || len(b.data)%ext4.BlockSize != 0 {
				t.Fatalf("a batch of %d bytes at %d, the last ended at %d", len(b.data), b.off, next)
			}
			next += int64(len(b.data))
			return nil
		})
		if err != nil {
			return
		}
		if next != in.stream.Offset() {
			t.Errorf("batches end at %d, the stream at %d", next, in.stream.Offset())
		}
		im, err := ext4.NewImage(in.root, ext4.Options{Stream: in.stream})
		if err != nil {
			return // ext4's own limits, for example a name of 256 bytes
		}
		for _, r := range im.Own() {
			if err := im.Fill(make([]byte, r[1]*ext4.BlockSize), r[0], noContents); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestFreeSpaceCanBeHidden(t *testing.T) {
	dir, src := t.TempDir(), source(t)
	for _, hide := range []bool{false, true} {
		path := filepath.Join(dir, "v")
		p, k := makeVolume(t, CreateOptions{Path: path, From: src, Writable: true, Size: 50 << 20, HideFreeSpace: hide, Force: true})
		if p.PayloadSize != 50<<20 {
			t.Errorf("payload of %d bytes", p.PayloadSize)
		}
		b, err := os.ReadFile(path)
		must(t, err)
		zeros := 0
		for at := p.PayloadOffset; at < p.End(); at += 4096 {
			if len(bytes.Trim(b[at:at+4096], "\x00")) == 0 {
				zeros++
			}
		}
		if hide != (zeros == 0) {
			t.Errorf("hide %v: %d blocks of zeros", hide, zeros)
		}
		run(t, "e2fsck", "-fn", decrypt(t, path, p, k))
	}
	_, _, err := Create(context.Background(), CreateOptions{Path: filepath.Join(dir, "w"), From: src, Writable: true, Size: 1 << 20, Rand: rand.Reader})
	if !errors.Is(err, ext4.ErrTooSmall) {
		t.Errorf("a size that is too small: %v", err)
	}
	nothingLeft(t, dir, "v")
}
