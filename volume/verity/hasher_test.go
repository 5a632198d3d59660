package verity

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"strconv"
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
	ways := everyWay()
	random := rand.NewChaCha8([32]byte{3})
	for i := range 20 {
		salt := make([]byte, SaltSize)
		random.Read(salt)
		h := NewHasher(salt)
		h.wide = ways[i%len(ways)]
		for blocks := range 36 {
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
	for _, w := range possible() {
		t.Logf("this processor hashes %d blocks side by side", w.blocks)
	}
}

// everyWay is each way to hash by itself, none of them, and all in turn.
func everyWay() [][]sideBySide {
	all := [][]sideBySide{nil, possible()}
	for _, w := range possible() {
		all = append(all, []sideBySide{w})
	}
	return all
}

func FuzzDigestsAgainstTheStandardLibrary(f *testing.F) {
	f.Add([]byte{}, []byte{0xFF}, uint8(2))
	f.Add(bytes.Repeat([]byte{0xFF}, SaltSize), bytes.Repeat([]byte{0x80}, BlockSize), uint8(3))
	f.Add([]byte{1}, []byte{1, 2, 3}, uint8(35))
	f.Fuzz(func(t *testing.T, salt, pattern []byte, blocks uint8) {
		salt = append(salt, make([]byte, SaltSize)...)[:SaltSize]
		data := make([]byte, int(blocks%40)*BlockSize)
		for i := range data {
			if len(pattern) > 0 {
				data[i] = pattern[i%len(pattern)] ^ byte(i/len(pattern))
			}
		}
		h, want := NewHasher(salt), reference(salt, data)
		for _, h.wide = range everyWay() {
			if got := h.Append(nil, data); !bytes.Equal(got, want) {
				t.Errorf("%x, want %x", got, want)
			}
		}
	})
}

func BenchmarkDigests(b *testing.B) {
	data, out := make([]byte, 1<<20), make([]byte, 0, 1<<20/BlockSize*DigestSize)
	for _, w := range append(possible(), sideBySide{blocks: 1}) {
		b.Run(strconv.Itoa(w.blocks), func(b *testing.B) {
			h := NewHasher(make([]byte, SaltSize))
			h.wide = []sideBySide{w}
			if w.blocks == 1 {
				h.wide = nil
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				h.Append(out, data)
			}
		})
	}
}
