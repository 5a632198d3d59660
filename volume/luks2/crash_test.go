package luks2

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand"
	"testing"

	"cloister/secret"
)

var errCrash = errors.New("the machine stopped")

// fragile is a disk whose machine stops at a chosen write. Of what was written
// since the last Sync any sectors may have reached the disk, and others not.
type fragile struct {
	disk   []byte // what survives
	cached []byte // what readers see
	stopAt int    // number of the write that does not return; negative: none
	writes int
	rnd    *mathrand.Rand
}

func (f *fragile) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(f.cached).ReadAt(b, off)
}

func (f *fragile) WriteAt(b []byte, off int64) (int, error) {
	copy(f.cached[off:], b)
	f.writes++
	if f.writes-1 != f.stopAt {
		return len(b), nil
	}
	const sector = 512
	for at := 0; at < len(f.disk); at += sector {
		if f.rnd.Intn(2) == 0 {
			copy(f.disk[at:at+sector], f.cached[at:])
		}
	}
	return 0, errCrash
}

func (f *fragile) Sync() error { copy(f.disk, f.cached); return nil }

func TestACrashInAnyWriteLeavesAKeyslotThatOpens(t *testing.T) {
	vk, kk := newKeys(t)
	head, err := Encode(rand.Reader, Params{UUID: testUUID}, vk, kk)
	if err != nil {
		t.Fatal(err)
	}
	const size = PayloadOffset + 1<<20
	start := append(head, make([]byte, size-len(head))...)
	old, changed := secret.New([]byte("old")), secret.New([]byte("changed"))
	cheap := KDF{Type: "pbkdf2", Iterations: MinIterations}
	whole := &fragile{disk: bytes.Clone(start), cached: bytes.Clone(start), stopAt: -1}
	if _, err := AddKeyslot(rand.Reader, whole, size, vk, old, cheap); err != nil {
		t.Fatal(err)
	}
	two := bytes.Clone(whole.disk)
	damaged := bytes.Clone(two)
	clear(damaged[headerSize : headerSize+binarySize])

	for name, c := range map[string]struct {
		from []byte
		do   func(d Device) error
		// keys of which at least one must open, and those that must whatever
		// happens
		one, all []secret.Bytes
	}{
		"add":                                    {start, func(d Device) error { _, err := AddKeyslot(rand.Reader, d, size, vk, old, cheap); return err }, nil, []secret.Bytes{kk}},
		"change":                                 {two, func(d Device) error { return ChangeKeyslot(rand.Reader, d, size, 1, vk, changed, cheap) }, []secret.Bytes{old, changed}, []secret.Bytes{kk}},
		"change the only other":                  {two, func(d Device) error { return ChangeKeyslot(rand.Reader, d, size, 0, vk, changed, cheap) }, []secret.Bytes{kk, changed}, []secret.Bytes{old}},
		"remove":                                 {two, func(d Device) error { return RemoveKeyslot(rand.Reader, d, size, 1) }, nil, []secret.Bytes{kk}},
		"change with a damaged secondary header": {damaged, func(d Device) error { return ChangeKeyslot(rand.Reader, d, size, 1, vk, changed, cheap) }, []secret.Bytes{old, changed}, []secret.Bytes{kk}},
		"repair":                                 {damaged, func(d Device) error { _, err := Repair(rand.Reader, d, size); return err }, nil, []secret.Bytes{kk, old}},
	} {
		t.Run(name, func(t *testing.T) {
			for stop := 0; ; stop++ {
				finished := false
				for try := range 8 {
					f := &fragile{disk: bytes.Clone(c.from), cached: bytes.Clone(c.from), stopAt: stop, rnd: mathrand.New(mathrand.NewSource(int64(try)))}
					err := c.do(f)
					if finished = err == nil; !finished && !errors.Is(err, errCrash) {
						t.Fatal(err)
					}
					where := fmt.Sprintf("write %d, try %d", stop, try)
					opens := func(k secret.Bytes) bool {
						h, err := Read(bytes.NewReader(f.disk), size)
						if err != nil {
							t.Errorf("%s: %v", where, err)
							return false
						}
						got, err := h.Unlock(bytes.NewReader(f.disk), k)
						return err == nil && got.Equal(vk)
					}
					ok := len(c.one) == 0
					for _, k := range c.one {
						ok = ok || opens(k)
					}
					for _, k := range c.all {
						ok = ok && opens(k)
					}
					if !ok {
						t.Errorf("%s: a keyslot is lost", where)
					}
				}
				if finished {
					if stop == 0 {
						t.Error("nothing was written: this test cannot fail")
					}
					return
				}
			}
		})
	}
}

func TestAReplacedOrRemovedKeyslotIsGoneFromTheDisk(t *testing.T) {
	vk, kk := newKeys(t)
	path := newVolume(t, Params{UUID: testUUID}, vk, kk)
	d, size := device(t, path)
	before, _ := open(t, path)
	a := before.disk.meta.Keyslots["0"].Area
	old := make([]byte, int64(a.Size))
	if _, err := d.ReadAt(old, int64(a.Offset)); err != nil {
		t.Fatal(err)
	}
	if err := ChangeKeyslot(rand.Reader, d, size, 0, vk, secret.New([]byte("x")), quick["pbkdf2"]); err != nil {
		t.Fatal(err)
	}
	now := make([]byte, len(old))
	if _, err := d.ReadAt(now, int64(a.Offset)); err != nil {
		t.Fatal(err)
	}
	for at := 0; at+512 <= 64*afStripes; at += 512 {
		if bytes.Equal(old[at:at+512], now[at:at+512]) {
			t.Fatalf("the old keyslot's bytes are still there at %d", at)
		}
	}
}

func TestNoKeyslotIsAddedUnderAnotherVolumesHeader(t *testing.T) {
	vk, kk := newKeys(t)
	other, _ := newKeys(t)
	path := newVolume(t, Params{UUID: testUUID}, vk, kk)
	d, size := device(t, path)
	if _, err := AddKeyslot(rand.Reader, d, size, other, kk, RandomKey); err == nil {
		t.Error("added a keyslot with a volume key that is not the header's")
	}
	if err := ChangeKeyslot(rand.Reader, d, size, 7, vk, kk, RandomKey); !errors.Is(err, ErrNoKeyslot) {
		t.Errorf("changing a keyslot that is not there: %v", err)
	}
	if err := RemoveKeyslot(rand.Reader, d, size, 7); !errors.Is(err, ErrNoKeyslot) {
		t.Errorf("removing a keyslot that is not there: %v", err)
	}
	if _, err := AddKeyslot(rand.Reader, d, size, vk, kk, KDF{Type: "argon2id", Memory: 1 << 40, Passes: 4, Threads: 4}); err == nil {
		t.Error("made a keyslot whose cost we would refuse to read")
	}
}
