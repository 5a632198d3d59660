package verity

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func build(t testing.TB, data, salt []byte) (tree []byte, root [DigestSize]byte) {
	t.Helper()
	var m memory
	b, err := NewBuilder(&m, int64(len(data))/BlockSize, salt)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher(salt)
	for at := 0; at < len(data); at += PerBlock * BlockSize {
		var digests []byte
		for i := at; i < min(at+PerBlock*BlockSize, len(data)); i += BlockSize {
			d := h.Sum(data[i:])
			digests = append(digests, d[:]...)
		}
		if err := b.SetLeaves(h, int64(at/BlockSize), digests); err != nil {
			t.Fatal(err)
		}
	}
	if root, err = b.Finish(); err != nil {
		t.Fatal(err)
	}
	if want := b.layout.Blocks * BlockSize; int64(len(m.b)) != want {
		t.Fatalf("tree of %d bytes, laid out for %d", len(m.b), want)
	}
	return m.b, root
}

// The block counts lie on both sides of each change of the tree's depth.
func TestVeritysetupVerifiesTheTreeAndNotAChangedOne(t *testing.T) {
	for _, blocks := range []int{2, 127, 128, 129, 300, 16384, 16385} {
		dir := t.TempDir()
		data, salt := make([]byte, blocks*BlockSize), make([]byte, SaltSize)
		rand.Read(data)
		rand.Read(salt)
		tree, root := build(t, data, salt)
		dataPath, treePath := filepath.Join(dir, "data"), filepath.Join(dir, "tree")
		const offset = 3 * BlockSize
		if err := os.WriteFile(treePath, append(make([]byte, offset), tree...), 0o600); err != nil {
			t.Fatal(err)
		}
		verify := func() error {
			if err := os.WriteFile(dataPath, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("veritysetup", "verify", "--no-superblock", "--format=1", "--hash=sha256",
				"--data-block-size=4096", "--hash-block-size=4096", "--data-blocks="+strconv.Itoa(blocks),
				"--salt="+hex.EncodeToString(salt), "--hash-offset="+strconv.Itoa(offset),
				dataPath, treePath, hex.EncodeToString(root[:])).CombinedOutput()
			if err != nil {
				t.Logf("%d blocks: %v %s", blocks, err, out)
			}
			return err
		}
		if verify() != nil {
			t.Errorf("%d blocks: veritysetup does not accept the tree", blocks)
		}
		data[len(data)-1] ^= 1
		if verify() == nil {
			t.Error("veritysetup accepts changed data: this test can't fail")
		}
	}
}

func TestAFlippedBitAnywhereIsFound(t *testing.T) {
	const blocks = 300
	data, salt := make([]byte, blocks*BlockSize), make([]byte, SaltSize)
	rand.Read(data)
	tree, root := build(t, data, salt)
	check := func() error {
		v, err := NewVerifier(bytes.NewReader(tree), blocks, salt, root)
		if err != nil {
			t.Fatal(err)
		}
		return v.Check(v.Hasher(), 0, data)
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += BlockSize*17 + 5 {
		data[i] ^= 4
		if err := check(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("data byte %d: %v", i, err)
		}
		data[i] ^= 4
	}
	for i := 0; i < len(tree); i += 64 {
		tree[i] ^= 4
		if err := check(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("tree byte %d: %v", i, err)
		}
		tree[i] ^= 4
	}
	copy(data[:BlockSize], data[BlockSize:2*BlockSize])
	if err := check(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a block in another's place: %v", err)
	}
}
