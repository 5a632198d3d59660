package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"cloister/secret"
	"cloister/volume/luks2"
	"cloister/volume/verity"
	"cloister/volume/xts"
)

func blocksOf(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}

// cheap is for tests alone.
var cheap = luks2.KDF{Type: "argon2id", Memory: 64, Passes: 1, Threads: 1}

func TestABroughtKeyAndAPassphraseBothOpenTheVolume(t *testing.T) {
	dir, src := t.TempDir(), source(t)
	path := filepath.Join(dir, "v")
	own, err := secret.Random(rand.Reader, 32)
	must(t, err)
	p, k := makeVolume(t, CreateOptions{Path: path, From: src, KeyslotKey: own, Passphrase: secret.New([]byte("six random words")), KDF: cheap})
	if !k.KeyslotKey.Equal(own) {
		t.Error("the key that was brought is not the keyslot's")
	}
	for want, key := range []secret.Bytes{own, secret.New([]byte("six random words"))} {
		claimed, vk, slot, err := Unlock(context.Background(), path, key)
		if err != nil || !vk.Equal(k.VolumeKey) || slot != want {
			t.Errorf("keyslot %d: %d, %v", want, slot, err)
		}
		p := p
		p.Verity = nil // no header can claim that
		if claimed != p {
			t.Errorf("the header claims %+v, pinned %+v", claimed, p)
		}
	}
	if _, _, _, err := Unlock(context.Background(), path, secret.New([]byte("wrong"))); !errors.Is(err, luks2.ErrWrongKey) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, _, err := Unlock(over, path, own); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if _, _, err := Create(context.Background(), CreateOptions{Path: filepath.Join(dir, "w"), From: src, Rand: rand.Reader, KeyslotKey: secret.Alloc(31)}); err == nil {
		t.Error("took a key of 31 bytes")
	}
	nothingLeft(t, dir, "v")
}

func TestCheckNamesEveryDamageAndRepairMendsTheHeader(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "v"), filepath.Join(dir, "other")
	p, k := makeVolume(t, CreateOptions{Path: path, From: source(t)})
	makeVolume(t, CreateOptions{Path: other, From: source(t)})
	good, err := os.ReadFile(path)
	must(t, err)
	foreign, err := os.ReadFile(other)
	must(t, err)
	ctx := context.Background()
	check := func() (Report, error) {
		return Check(ctx, CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
	}
	if r, err := check(); err != nil || len(r.Header) > 0 || !r.Verified || r.Names != 15 {
		t.Errorf("a sound volume: %+v, %v", r, err)
	}
	for want, damage := range map[string]func(b []byte){
		"primary header":    func(b []byte) { clear(b[:4096]) },
		"secondary header":  func(b []byte) { b[17000] ^= 1 },
		"not a LUKS2":       func(b []byte) { clear(b[:32<<10]) },
		"the UUIDs differ":  func(b []byte) { copy(b, foreign[:p.PayloadOffset]) },
		"checksum does not": func(b []byte) { b[5000] ^= 1; b[5000+16<<10] ^= 1 },
	} {
		b := append([]byte(nil), good...)
		damage(b)
		must(t, os.WriteFile(path, b, 0o600))
		r, err := check()
		if err != nil || len(r.Header) == 0 || !strings.Contains(strings.Join(r.Header, " "), want) {
			t.Errorf("got %q, %v, want it to say %q", r.Header, err, want)
		}
		did, err := RepairHeader(rand.Reader, path, p, "", k)
		if err != nil || did == "" {
			t.Errorf("%s: repaired %q, %v", want, did, err)
		}
		if r, err := check(); err != nil || len(r.Header) > 0 {
			t.Errorf("%s, after the repair: %+v, %v", want, r, err)
		}
		if did, err := RepairHeader(rand.Reader, path, p, "", k); err != nil || did != "" {
			t.Errorf("%s, a second repair did %q, %v", want, did, err)
		}
		if _, vk, _, err := Unlock(ctx, path, k.KeyslotKey); err != nil || !vk.Equal(k.VolumeKey) {
			t.Errorf("%s: the keyslot does not open after the repair: %v", want, err)
		}
	}
	// Every byte is checked, also those that hold no file.
	b := append([]byte(nil), good...)
	b[p.PayloadOffset+p.PayloadSize-1] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	if _, err := check(); !errors.Is(err, verity.ErrCorrupt) {
		t.Errorf("a changed last byte: %v", err)
	}
	must(t, os.WriteFile(path, good[:p.End()-1], 0o600))
	if _, err := check(); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a truncated file: %v", err)
	}
	clear(good[:1<<20])
	must(t, os.WriteFile(path, good[:p.End()-1], 0o600))
	if _, err := RepairHeader(rand.Reader, path, p, "", k); err == nil {
		t.Error("gave a truncated file a new header")
	}
}

func TestGrowKeepsEverythingAndMakesRoom(t *testing.T) {
	dir, src := t.TempDir(), source(t)
	path := filepath.Join(dir, "v")
	p, k := makeVolume(t, CreateOptions{Path: path, From: src, Writable: true})
	before, err := os.ReadFile(path)
	must(t, err)
	kept := 0
	o := GrowOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey, Create: CreateOptions{Free: 100 << 20, Rand: rand.Reader}}
	o.Create.Keep = func(np Pinned, nk Keys) error {
		kept++
		if now, err := os.ReadFile(path); err != nil || string(now) != string(before) {
			t.Error("the old volume was touched before the new one's keys were kept")
		}
		if np.UUID == p.UUID || nk.VolumeKey.Equal(k.VolumeKey) {
			t.Error("the new volume has the old one's name or key")
		}
		return nil
	}
	np, nk, err := Grow(context.Background(), o)
	must(t, err)
	if kept != 1 || np.PayloadSize < p.PayloadSize+(99<<20) {
		t.Errorf("kept %d times, %d bytes of payload after %d", kept, np.PayloadSize, p.PayloadSize)
	}
	image := decrypt(t, path, np, nk)
	run(t, "e2fsck", "-fn", image)
	to := filepath.Join(dir, "out")
	_, err = Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: np, VolumeKey: nk.VolumeKey})
	must(t, err)
	diff(t, describe(t, src), describe(t, to))

	// A failure leaves the old volume.
	now, err := os.ReadFile(path)
	must(t, err)
	o.Pinned, o.VolumeKey = np, nk.VolumeKey
	o.Create.Keep = func(Pinned, Keys) error { return errors.New("no place for the keys") }
	if _, _, err := Grow(context.Background(), o); err == nil {
		t.Error("grew a volume whose keys could not be kept")
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != string(now) {
		t.Error("the volume changed")
	}
	nothingLeft(t, dir, "v", "out")

	rp, rk := makeVolume(t, CreateOptions{Path: filepath.Join(dir, "r"), From: src})
	o.Path, o.Pinned, o.VolumeKey = filepath.Join(dir, "r"), rp, rk.VolumeKey
	if _, _, err := Grow(context.Background(), o); err == nil || !strings.Contains(err.Error(), "for reading") {
		t.Errorf("grew a volume for reading: %v", err)
	}
}

// nodeMade makes a volume as a node does (noded/unlock), with mke2fs in place
// of a job.
func nodeMade(t *testing.T, src string) (path string, p Pinned, k Keys) {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	run(t, "mke2fs", "-q", "-b", "4096", "-I", "256", "-m", "0",
		"-O", "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
		"-d", src, image, "200M")
	plain, err := os.ReadFile(image)
	must(t, err)
	must(t, os.Remove(image))
	p, k, err = PlanNewVolume(rand.Reader, int64(len(plain)), true)
	must(t, err)
	head, err := HeaderForNewVolume(rand.Reader, p, "results", k)
	must(t, err)
	c, err := xts.New(k.VolumeKey)
	must(t, err)
	c.Encrypt(plain, plain, int(p.SectorSize), 0)
	path = filepath.Join(dir, "v")
	must(t, os.WriteFile(path, append(append(head, make([]byte, int(p.PayloadOffset)-len(head))...), plain...), 0o600))
	return path, p, k
}

func TestAVolumeThatANodeMadeIsCheckedAndGrown(t *testing.T) {
	src := source(t)
	path, p, k := nodeMade(t, src)
	r, err := Check(context.Background(), CheckOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey})
	if err != nil || r.Names != 15 || r.Verified || len(r.Header) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	np, nk, err := Grow(context.Background(), GrowOptions{Path: path, Pinned: p, VolumeKey: k.VolumeKey, Create: CreateOptions{Size: 300 << 20, Rand: rand.Reader}})
	must(t, err)
	run(t, "e2fsck", "-fn", decrypt(t, path, np, nk))
	to := filepath.Join(t.TempDir(), "out")
	_, err = Extract(context.Background(), ExtractOptions{Path: path, To: to, Pinned: np, VolumeKey: nk.VolumeKey})
	must(t, err)
	fraction := regexp.MustCompile(`(\.[0-9]+)?Z$`) // of a second, which mke2fs -d does not keep
	want, got := describe(t, src), describe(t, to)
	for _, m := range []map[string]string{want, got} {
		for name, d := range m {
			m[name] = fraction.ReplaceAllString(d, "Z")
		}
	}
	diff(t, want, got)
}
