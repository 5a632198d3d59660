package verity

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// reference is SHA-256(salt || block) for each block, by the standard library.
func reference(salt, data []byte) (out []byte) {
	for ; len(data) > 0; data = data[BlockSize:] {
		d := sha256.Sum256(append(bytes.Clone(salt), data[:BlockSize]...))
		out = append(out, d[:]...)
	}
	return out
}

func TestDigestsAreThoseOfTheStandardLibraryHoweverManyBlocks(t *testing.T) {
	random := rand.NewChaCha8([32]byte{3})
	for range 20 {
		salt := make([]byte, SaltSize)
		random.Read(salt)
		h := NewHasher(salt)
		for blocks := range 10 {
			for misalign := range 3 {
				data := make([]byte, misalign+blocks*BlockSize)[misalign:]
				random.Read(data)
				got := h.Append([]byte("before"), data)
				if want := append([]byte("before"), reference(salt, data)...); !bytes.Equal(got, want) {
					t.Fatalf("%d blocks: %x, want %x", blocks, got, want)
				}
				if blocks > 0 {
					if d := h.Sum(data); !bytes.Equal(d[:], got[6:6+DigestSize]) {
						t.Fatalf("one block: %x, want %x", d, got[6:6+DigestSize])
					}
				}
			}
		}
	}
	t.Logf("two blocks side by side: %v", pairs)
}

func FuzzDigestsAgainstTheStandardLibrary(f *testing.F) {
	f.Add([]byte{}, []byte{0xFF}, uint8(2))
	f.Add(bytes.Repeat([]byte{0xFF}, SaltSize), bytes.Repeat([]byte{0x80}, BlockSize), uint8(3))
	f.Fuzz(func(t *testing.T, salt, pattern []byte, blocks uint8) {
		salt = append(salt, make([]byte, SaltSize)...)[:SaltSize]
		data := make([]byte, int(blocks%8)*BlockSize)
		for i := range data {
			if len(pattern) > 0 {
				data[i] = pattern[i%len(pattern)] ^ byte(i/len(pattern))
			}
		}
		if got, want := NewHasher(salt).Append(nil, data), reference(salt, data); !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	})
}

func BenchmarkDigests(b *testing.B) {
	h := NewHasher(make([]byte, SaltSize))
	data, out := make([]byte, 1<<20), make([]byte, 0, 1<<20/BlockSize*DigestSize)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		h.Append(out, data)
	}
}
