package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAVolumeThatAJobWritesToIsInUse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v")
	p, k := makeVolume(t, CreateOptions{Path: path, From: source(t), Writable: true})
	// As a node does, noded/unlock.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole))
	ctx := context.Background()
	for name, do := range map[string]func() error{
		"extract": func() error {
			_, err := Extract(ctx, ExtractOptions{Path: path, To: filepath.Join(dir, "out"), Pinned: p, VolumeKey: k.VolumeKey})
			return err
		},
		"check": func() error {
			_, err := Check(ctx, CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
			return err
		},
		"grow": func() error {
			_, _, err := Grow(ctx, GrowOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey, Create: CreateOptions{Rand: rand.Reader}})
			return err
		},
		"keyslots": func() error { _, err := AddKeyslot(rand.Reader, path, k.VolumeKey, k.KeyslotKey, cheap); return err },
		"repair":   func() error { _, err := RepairHeader(rand.Reader, path, p, "", k); return err },
	} {
		if err := do(); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothingLeft(t, dir, "v")
	f.Close()
	_, err = Check(ctx, CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
	must(t, err)
}
