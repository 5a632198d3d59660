package volume

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"cloister/volume/verity"
)

func TestAFileInAVolumeIsReadAtAnyPlace(t *testing.T) {
	src := source(t)
	path := filepath.Join(t.TempDir(), "v.luks")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	for _, name := range []string{"big.bin", "sub/deeper/hard", "sparse.dat", "small.csv", "empty-file"} {
		want, err := os.ReadFile(filepath.Join(src, name))
		must(t, err)
		f, err := OpenFile(path, p, k.VolumeKey, name)
		must(t, err)
		defer f.Close()
		if f.Size() != int64(len(want)) {
			t.Errorf("%s: %d bytes, want %d", name, f.Size(), len(want))
		}
		if name == "small.csv" {
			must(t, iotest.TestReader(io.NewSectionReader(f, 0, f.Size()), want))
		}
		for range 50 {
			off := rand.Int64N(f.Size() + 2)
			b := make([]byte, rand.IntN(3<<20))
			n, err := f.ReadAt(b, off)
			left := want[min(off, f.Size()):]
			if n != min(len(b), len(left)) || !bytes.Equal(b[:n], left[:n]) || (err == io.EOF) != (n < len(b)) || err != nil && err != io.EOF {
				t.Fatalf("%s: %d of %d bytes at %d: %v", name, n, len(b), off, err)
			}
		}
		if _, err := f.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("read before the beginning")
		}
	}
	for name, missing := range map[string]bool{"none": true, "small.csv/x": true, "sub/up": false, "sub": false, "../v.luks": false, "/small.csv": false, "": false, "sub//up": false} {
		if f, err := OpenFile(path, p, k.VolumeKey, name); err == nil || errors.Is(err, fs.ErrNotExist) != missing {
			t.Errorf("%q: %v, %v", name, f, err)
		}
	}
}

func TestAFileInAnAlteredVolumeIsAnError(t *testing.T) {
	src := source(t)
	path := filepath.Join(t.TempDir(), "v.luks")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	f, err := OpenFile(path, p, k.VolumeKey, "big.bin")
	must(t, err)
	defer f.Close()
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer w.Close()
	at := p.PayloadOffset + f.extents[0].Physical*verity.BlockSize + 4096*100
	b := make([]byte, 1)
	_, err = w.ReadAt(b, at)
	must(t, err)
	b[0] ^= 1
	_, err = w.WriteAt(b, at)
	must(t, err)
	if _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, f.Size())); !errors.Is(err, verity.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
