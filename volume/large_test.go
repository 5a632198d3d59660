package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAFileOfMoreThan4GiBSurvivesTheRoundTrip(t *testing.T) {
	src, dir := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(src, "large"))
	must(t, err)
	defer f.Close()
	parts := map[int64]string{0: "first", 1<<32 - 3: "across", 5<<30 + 7: "last"}
	for at, s := range parts {
		_, err = f.WriteAt([]byte(s), at)
		must(t, err)
	}
	must(t, f.Truncate(6<<30+1))
	path := filepath.Join(dir, "v")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	to := filepath.Join(dir, "out")
	_, err = Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
	must(t, err)
	out, err := os.Open(filepath.Join(to, "large"))
	must(t, err)
	defer out.Close()
	for at, s := range parts {
		b := make([]byte, len(s))
		_, err := out.ReadAt(b, at)
		must(t, err)
		if string(b) != s {
			t.Errorf("%q at %d, want %q", b, at, s)
		}
	}
	st, err := out.Stat()
	must(t, err)
	if st.Size() != 6<<30+1 || st.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, %d on disk", st.Size(), st.Sys().(*syscall.Stat_t).Blocks*512)
	}
}

func TestAHundredThousandFilesSurviveTheRoundTrip(t *testing.T) {
	const dirs, files = 100, 1000
	src, dir := t.TempDir(), t.TempDir()
	for d := range dirs {
		in := filepath.Join(src, fmt.Sprint(d))
		must(t, os.Mkdir(in, 0o755))
		for n := range files {
			must(t, os.WriteFile(filepath.Join(in, fmt.Sprint(n)), fmt.Appendf(nil, "%d/%d", d, n), 0o600))
		}
	}
	path := filepath.Join(dir, "v")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src})
	run(t, "e2fsck", "-fn", decrypt(t, path, p, k))
	to := filepath.Join(dir, "out")
	sum, err := Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
	must(t, err)
	if sum.Files != dirs*files || sum.Directories != dirs {
		t.Errorf("%+v", sum)
	}
	for d := range dirs {
		for n := range files {
			if b, err := os.ReadFile(filepath.Join(to, fmt.Sprint(d), fmt.Sprint(n))); err != nil || string(b) != fmt.Sprintf("%d/%d", d, n) {
				t.Fatalf("%d/%d: %q, %v", d, n, b, err)
			}
		}
	}
}
