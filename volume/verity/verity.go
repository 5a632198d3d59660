// Package verity builds and checks dm-verity hash trees: format 1, sha256,
// data and hash blocks of 4096 bytes, no superblock.
//
// It follows Documentation/admin-guide/device-mapper/verity.rst and
// drivers/md/dm-verity-target.c: a digest is SHA-256(salt || block), 128
// digests fill a hash block, and the tree begins with its top block and ends
// with the leaf level, so that the kernel finds it with hash_start at the
// tree's first block.
//
// It refuses every other algorithm, block size and format version: there is
// nothing to choose.
package verity

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	BlockSize  = 4096        // bytes, of data and of hashes
	DigestSize = sha256.Size // bytes
	SaltSize   = 32          // bytes; the kernel takes up to 256
	PerBlock   = 128         // digests in a hash block
	maxBlocks  = 1 << 48     // of data: far beyond 2^60 bytes / 4096, keeps sums from overflowing
	cacheSize  = 2048        // verified hash blocks that a Verifier keeps, so 8 MiB
	levelShift = 7           // log2(PerBlock)
)

// Layout tells where the levels of a tree lie. Level 0 holds the digests of
// the data blocks.
type Layout struct {
	DataBlocks int64
	Blocks     int64   // of the whole tree
	start      []int64 // first block of each level, from the tree's beginning
	count      []int64
}

// NewLayout lays out the tree over dataBlocks blocks. One block alone would
// need no tree and is refused.
func NewLayout(dataBlocks int64) (Layout, error) {
	if dataBlocks < 2 || dataBlocks > maxBlocks {
		return Layout{}, fmt.Errorf("laying out a hash tree over %d blocks: out of bounds", dataBlocks)
	}
	l := Layout{DataBlocks: dataBlocks}
	for n := dataBlocks; n > 1; {
		n = (n + PerBlock - 1) >> levelShift
		l.count = append(l.count, n)
	}
	l.start = make([]int64, len(l.count))
	for i := len(l.count) - 1; i >= 0; i-- {
		l.start[i] = l.Blocks
		l.Blocks += l.count[i]
	}
	return l, nil
}

// Builder writes a tree to w, where the tree begins at offset 0. SetLeaves
// may be called concurrently and in any order; Finish comes last. It keeps 32
// bytes for each 512 KiB of data in memory.
type Builder struct {
	layout Layout
	salt   []byte
	w      io.WriterAt
	upper  []byte // digests of the leaf blocks, in order
	zero   [DigestSize]byte
}

// NewBuilder returns a Builder over dataBlocks blocks.
func NewBuilder(w io.WriterAt, dataBlocks int64, salt []byte) (*Builder, error) {
	l, err := NewLayout(dataBlocks)
	if err != nil {
		return nil, err
	}
	if len(salt) != SaltSize {
		return nil, fmt.Errorf("building a hash tree: salt of %d bytes, want %d", len(salt), SaltSize)
	}
	b := &Builder{layout: l, salt: append([]byte(nil), salt...), w: w, upper: make([]byte, l.count[0]*DigestSize)}
	b.zero = NewHasher(salt).Sum(make([]byte, BlockSize))
	return b, nil
}

// ZeroDigest is the digest of a block of zeros, which is what a hole reads as.
func (b *Builder) ZeroDigest() [DigestSize]byte { return b.zero }

// SetLeaves stores the digests of the data blocks from first on. first must
// be a multiple of PerBlock, and so must their number unless they are the last.
func (b *Builder) SetLeaves(h *Hasher, first int64, digests []byte) error {
	n := int64(len(digests)) / DigestSize
	if first%PerBlock != 0 || n%PerBlock != 0 && first+n != b.layout.DataBlocks || first+n > b.layout.DataBlocks {
		return fmt.Errorf("building a hash tree: %d digests at block %d are no whole hash blocks", n, first)
	}
	leaf := first / PerBlock
	return b.writeLevel(h, 0, leaf, digests, b.upper[leaf*DigestSize:])
}

// writeLevel writes digests as hash blocks of the level, from its block
// number at on, and puts the digests of those into up.
func (b *Builder) writeLevel(h *Hasher, level int, at int64, digests, up []byte) error {
	blocks := (len(digests) + BlockSize - 1) / BlockSize
	out := make([]byte, blocks*BlockSize)
	copy(out, digests)
	copy(up, h.Append(nil, out))
	if _, err := b.w.WriteAt(out, (b.layout.start[level]+at)*BlockSize); err != nil {
		return fmt.Errorf("writing the hash tree: %w", err)
	}
	return nil
}

// Finish writes the upper levels and returns the root hash.
func (b *Builder) Finish() ([DigestSize]byte, error) {
	h := NewHasher(b.salt)
	digests := b.upper
	for level := 1; level < len(b.layout.count); level++ {
		up := make([]byte, b.layout.count[level]*DigestSize)
		if err := b.writeLevel(h, level, 0, digests, up); err != nil {
			return [DigestSize]byte{}, err
		}
		digests = up
	}
	return [DigestSize]byte(digests[:DigestSize]), nil
}

// ErrCorrupt says that data or tree do not match the root hash: the volume
// was changed after it was made.
var ErrCorrupt = errors.New("contents do not match the volume's root hash")

// Verifier checks data blocks against a root hash. It is safe for concurrent
// use.
type Verifier struct {
	layout Layout
	salt   []byte
	root   [DigestSize]byte
	r      io.ReaderAt

	mu    sync.Mutex
	cache map[key][]byte // verified hash blocks
}

type key struct {
	level int
	index int64
}

// NewVerifier returns a Verifier that reads the tree from r, where it begins
// at offset 0.
func NewVerifier(r io.ReaderAt, dataBlocks int64, salt []byte, root [DigestSize]byte) (*Verifier, error) {
	l, err := NewLayout(dataBlocks)
	if err != nil {
		return nil, err
	}
	if len(salt) != SaltSize {
		return nil, fmt.Errorf("checking a hash tree: salt of %d bytes, want %d", len(salt), SaltSize)
	}
	return &Verifier{layout: l, salt: append([]byte(nil), salt...), root: root, r: r, cache: map[key][]byte{}}, nil
}

// Hasher returns a Hasher under the tree's salt, for Check.
func (v *Verifier) Hasher() *Hasher { return NewHasher(v.salt) }

// Check verifies data, whole blocks that begin at data block first. The error
// is ErrCorrupt if they are not what the tree was built over.
func (v *Verifier) Check(h *Hasher, first int64, data []byte) error {
	n := int64(len(data)) / BlockSize
	if len(data)%BlockSize != 0 || first < 0 || first+n > v.layout.DataBlocks {
		return fmt.Errorf("checking blocks %d to %d: outside the volume", first, first+n)
	}
	h.digests = h.Append(h.digests[:0], data)
	var leaf []byte
	for i := range n {
		block := first + i
		if leaf == nil || block%PerBlock == 0 {
			var err error
			if leaf, err = v.hashBlock(h, 0, block/PerBlock); err != nil {
				return err
			}
		}
		d, at := h.digests[i*DigestSize:(i+1)*DigestSize], block%PerBlock*DigestSize
		if subtle.ConstantTimeCompare(d, leaf[at:at+DigestSize]) != 1 {
			return fmt.Errorf("block %d: %w", block, ErrCorrupt)
		}
	}
	return nil
}

// hashBlock returns a verified block of the tree.
func (v *Verifier) hashBlock(h *Hasher, level int, index int64) ([]byte, error) {
	v.mu.Lock()
	b := v.cache[key{level, index}]
	v.mu.Unlock()
	if b != nil {
		return b, nil
	}
	want := v.root[:]
	if level < len(v.layout.count)-1 {
		parent, err := v.hashBlock(h, level+1, index/PerBlock)
		if err != nil {
			return nil, err
		}
		at := index % PerBlock * DigestSize
		want = parent[at : at+DigestSize]
	}
	b = make([]byte, BlockSize)
	if _, err := io.ReadFull(io.NewSectionReader(v.r, (v.layout.start[level]+index)*BlockSize, BlockSize), b); err != nil {
		return nil, fmt.Errorf("reading the hash tree: %w", err)
	}
	d := h.Sum(b)
	if subtle.ConstantTimeCompare(d[:], want) != 1 {
		return nil, fmt.Errorf("hash tree level %d, block %d: %w", level, index, ErrCorrupt)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.cache) >= cacheSize {
		for k := range v.cache { // any leaf will do: the upper levels are few and used most
			if k.level == 0 || len(v.cache) > 2*cacheSize {
				delete(v.cache, k)
				break
			}
		}
	}
	v.cache[key{level, index}] = b
	return b, nil
}
