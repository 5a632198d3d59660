package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/volume/xts"
)

// rewritten decrypts a volume for writing, lets change alter the file system
// as an attacker with the key would, and encrypts it again.
func rewritten(t *testing.T, from string, change func(image []byte)) (dir, path string, p Pinned, k Keys) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "v.luks")
	p, k = makeVolume(t, CreateOptions{Path: path, From: from, Writable: true})
	image, err := os.ReadFile(decrypt(t, path, p, k))
	must(t, err)
	// Without metadata_csum, so that changes are not found by checksums.
	binary.LittleEndian.PutUint32(image[1024+0x64:], binary.LittleEndian.Uint32(image[1024+0x64:])&^0x400)
	change(image)
	c, err := xts.New(k.VolumeKey)
	must(t, err)
	c.Encrypt(image, image, 4096, 0)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(image, p.PayloadOffset)
	must(t, err)
	must(t, f.Close())
	return dir, path, p, k
}

// rename changes a name in a directory to another of the same length.
func rename(t *testing.T, image []byte, from, to string) {
	t.Helper()
	old := append([]byte{byte(len(from))}, 0)
	for at := 0; ; {
		i := bytes.Index(image[at:], []byte(from))
		if i < 0 {
			t.Fatalf("%q is not in the image", from)
		}
		at += i
		if at >= 2 && image[at-2] == old[0] {
			copy(image[at:], to)
			return
		}
		at++
	}
}

func TestAHostileVolumeNeverReachesOutsideTheTarget(t *testing.T) {
	outside := t.TempDir()
	src := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(src, "link")))
	must(t, os.Mkdir(filepath.Join(src, "dir1"), 0o700))
	must(t, os.WriteFile(filepath.Join(src, "dir1", "planted-file"), []byte("evil"), 0o600))
	must(t, os.WriteFile(filepath.Join(src, "file"), []byte("evil"), 0o600))
	for name, change := range map[string]func(image []byte){
		"a directory named as the link is": func(b []byte) { rename(t, b, "dir1", "link") },
		"a file named as the link is":      func(b []byte) { rename(t, b, "file", "link") },
		"a path that climbs":               func(b []byte) { rename(t, b, "planted-file", "../../../pwn") },
		"an absolute path":                 func(b []byte) { rename(t, b, "planted-file", "/tmp/planted") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, path, p, k := rewritten(t, src, change)
			_, err := Extract(context.Background(), ExtractOptions{Path: path, To: filepath.Join(dir, "out"), Pinned: p, VolumeKey: k.VolumeKey})
			if err == nil {
				t.Error("extracted")
			}
			nothingLeft(t, dir, "v.luks")
			nothingLeft(t, outside)
		})
	}
}

func TestNamesInMessagesCannotCommandTheTerminal(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "file"), []byte("x"), 0o600))
	dir, path, p, k := rewritten(t, src, func(b []byte) {
		rename(t, b, "file", "\x1b[2J")
		at := bytes.Index(b, []byte("\x1b[2J"))
		binary.LittleEndian.PutUint32(b[at-8:], 1) // a reserved inode
	})
	_, err := Extract(context.Background(), ExtractOptions{Path: path, To: filepath.Join(dir, "out"), Pinned: p, VolumeKey: k.VolumeKey})
	if err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "x1b[2J") {
		t.Errorf("got %q", err)
	}
}

func TestPrivilegedModesAndSpecialFilesAreNotRestored(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "suid"), []byte("x"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "device"), nil, 0o600))
	dir, path, p, k := rewritten(t, src, func(b []byte) {
		le := binary.LittleEndian
		table := int(le.Uint32(b[4096+8:])) * 4096
		for n := range 40 {
			switch i := b[table+n*256:]; le.Uint16(i) {
			case 0x8000 | 0o755:
				le.PutUint16(i, 0x8000|0o7755)
			case 0x8000 | 0o600:
				le.PutUint16(i, 0x2000|0o666)
			}
		}
		at := bytes.Index(b, []byte("device"))
		b[at-1] = 3 // file type: character device
	})
	to := filepath.Join(dir, "out")
	s, err := Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: p, VolumeKey: k.VolumeKey})
	must(t, err)
	if len(s.Skipped) != 1 || !strings.Contains(s.Skipped[0], "device (character device)") {
		t.Errorf("skipped %q", s.Skipped)
	}
	st, err := os.Lstat(filepath.Join(to, "suid"))
	must(t, err)
	if st.Mode() != 0o755 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := os.Lstat(filepath.Join(to, "device")); err == nil {
		t.Error("the device was made")
	}
}

func TestExtractionOfAVolumeForWritingUsesThePinnedGeometry(t *testing.T) {
	src := source(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "v")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src, Writable: true})
	p.PayloadOffset -= 4096
	if _, err := Extract(context.Background(), ExtractOptions{Path: path, To: filepath.Join(dir, "out"), Pinned: p, VolumeKey: k.VolumeKey}); err == nil {
		t.Error("the offset of the header was used, not the pinned one")
	}
	nothingLeft(t, dir, "v")
}
