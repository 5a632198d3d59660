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
	digests []byte // scratch of Verifier.Check
}

// NewHasher returns a Hasher for salt, which has SaltSize bytes.
func NewHasher(salt []byte) *Hasher {
	return &Hasher{salt: append([]byte(nil), salt...), h: sha256.New()}
}

// Sum returns the digest of one block of BlockSize bytes.
func (h *Hasher) Sum(block []byte) (digest [DigestSize]byte) {
	h.one(digest[:0], block[:BlockSize])
	return digest
}

// Append appends the digests of data, whole blocks, to to. Where the processor
// can, it hashes two blocks side by side: one alone leaves half of the
// instructions' speed unused, because each waits for the one before.
func (h *Hasher) Append(to, data []byte) []byte {
	for ; pairs && len(data) >= 2*BlockSize; data = data[2*BlockSize:] {
		to = sumPair(to, h.salt, data[:BlockSize], data[BlockSize:2*BlockSize])
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
