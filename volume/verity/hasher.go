package verity

import (
	"crypto/sha256"
	"hash"
)

//go:generate go run -C ../asm ./sha256 -out ../verity/sha256_amd64.s -stubs ../verity/sha256_amd64.go -pkg verity

// Hasher hashes blocks under one salt. It is for one goroutine.
type Hasher struct {
	salt    []byte
	h       hash.Hash
	wide    []sideBySide
	digests []byte // scratch of Verifier.Check
}

// sideBySide hashes several blocks at once: one alone leaves most of a
// processor's speed unused, because each instruction waits for the one before.
type sideBySide struct {
	blocks int
	// sum appends SHA-256(salt || block) of data's first blocks.
	sum func(to, salt, data []byte) []byte
}

// NewHasher returns a Hasher for salt, which has SaltSize bytes.
func NewHasher(salt []byte) *Hasher {
	return &Hasher{salt: append([]byte(nil), salt...), h: sha256.New(), wide: fastest()}
}

// Sum returns the digest of one block of BlockSize bytes.
func (h *Hasher) Sum(block []byte) (digest [DigestSize]byte) {
	h.one(digest[:0], block[:BlockSize])
	return digest
}

// Append appends the digests of data, whole blocks, to to.
func (h *Hasher) Append(to, data []byte) []byte {
	for _, w := range h.wide {
		for ; len(data) >= w.blocks*BlockSize; data = data[w.blocks*BlockSize:] {
			to = w.sum(to, h.salt, data)
		}
	}
	for ; len(data) > 0; data = data[BlockSize:] {
		to = h.one(to, data[:BlockSize])
	}
	return to
}

func (h *Hasher) one(to, block []byte) []byte {
	h.h.Reset()
	h.h.Write(h.salt)
	h.h.Write(block)
	return h.h.Sum(to)
}
