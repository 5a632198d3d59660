package imagecheck

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/noded/helper"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	helper.Main()
	os.Exit(m.Run())
}

var user = helper.User{UID: 4711, GID: 4712}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// volume is a directory with images: good.sif, unsigned.sif, altered.sif behind
// its table of contents, and what is no image.
func volume(t *testing.T) (dir string, keys string) {
	t.Helper()
	dir, err := os.MkdirTemp("/srv", "volume")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	squashfs := bytes.Repeat([]byte{0xa5}, 4096)
	copy(squashfs, "hsqs")
	copy(squashfs[28:], []byte{4, 0, 0, 0})
	copy(squashfs[40:], []byte{0, 4096 >> 8, 0, 0, 0, 0, 0, 0})
	in, err := sif.NewDescriptorInput(sif.DataPartition, bytes.NewReader(squashfs), sif.OptPartitionMetadata(sif.FsSquash, sif.PartPrimSys, "amd64"))
	check(t, err)
	good := filepath.Join(dir, "v2/good.sif")
	check(t, os.Mkdir(filepath.Dir(good), 0o755))
	img, err := sif.CreateContainerAtPath(good, sif.OptCreateWithDescriptors(in))
	check(t, err)
	put := func(name string, change func([]byte)) {
		b, err := os.ReadFile(good)
		check(t, err)
		if change != nil {
			change(b)
		}
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	put("unsigned.sif", nil)
	e, err := openpgp.NewEntity("Test", "", "test@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	check(t, err)
	s, err := integrity.NewSigner(img, integrity.OptSignWithEntity(e))
	check(t, err)
	check(t, s.Sign())
	check(t, img.UnloadContainer())
	check(t, os.Chmod(good, 0o644))
	put("altered.sif", func(b []byte) { b[bytes.Index(b, []byte("hsqs"))+2000] ^= 1 })
	put("private.sif", nil)
	check(t, os.Chmod(filepath.Join(dir, "private.sif"), 0o600))
	check(t, os.Symlink("v2/good.sif", filepath.Join(dir, "link.sif")))
	check(t, os.Symlink("v2", filepath.Join(dir, "latest")))
	check(t, unix.Mkfifo(filepath.Join(dir, "fifo.sif"), 0o644))
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	check(t, err)
	check(t, e.Serialize(w))
	check(t, w.Close())
	keys = filepath.Join(t.TempDir(), "keys.asc") // not readable for the user, as on a node
	check(t, os.WriteFile(keys, b.Bytes(), 0o600))
	return dir, keys
}

func TestAnImageInAVolumeIsJudgedWithTheUsersRightsAndBehindNoLink(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("the helper becomes a user: run this test as root")
	}
	dir, keys := volume(t)
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	check(t, err)
	defer root.Close()
	for _, c := range []struct {
		path            string
		skimmed, verify string // what the refusal says, "" for none
	}{
		{"v2/good.sif", "", ""},
		{"altered.sif", "", "altered after it was signed"},
		{"unsigned.sif", "not signed", "not signed"},
		{"private.sif", "permission denied", "permission denied"},
		{"link.sif", "symbolic link", "symbolic link"},
		{"latest/good.sif", "symbolic link", "symbolic link"},
		{"fifo.sif", "not a regular file", "not a regular file"},
		{"v2", "not a regular file", "not a regular file"},
		{"none.sif", "no such file", "no such file"},
		{"../" + filepath.Base(dir) + "/v2/good.sif", "cross-device", "cross-device"},
		{"/etc/passwd", "cross-device", "cross-device"},
	} {
		for whole, want := range map[bool]string{false: c.skimmed, true: c.verify} {
			k, err := os.Open(keys)
			check(t, err)
			err = Check(t.Context(), user, Image{Volume: root, Path: c.path, Keys: k, Whole: whole, Max: 1 << 20})
			k.Close()
			var refused Refusal
			if (err == nil) != (want == "") || err != nil && !errors.As(err, &refused) || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, whole %v: %v, want %q", c.path, whole, err, want)
			}
		}
	}
	junk, err := os.Open(os.Args[0])
	check(t, err)
	defer junk.Close()
	var refused Refusal
	if err := Check(t.Context(), user, Image{Volume: root, Path: "v2/good.sif", Keys: junk}); err == nil || errors.As(err, &refused) {
		t.Errorf("keys that cannot be read: %v", err)
	}
	k, err := os.Open(keys)
	check(t, err)
	defer k.Close()
	if err := Check(t.Context(), user, Image{Volume: root, Path: "v2/good.sif", Keys: k, Whole: true, Max: 4096}); err == nil || !strings.Contains(err.Error(), "policy allows 4096") {
		t.Errorf("larger than the policy allows: %v", err)
	}
}
