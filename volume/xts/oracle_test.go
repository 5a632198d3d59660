package xts

import (
	"bytes"
	"crypto/aes"
	"fmt"
	"math/rand/v2"
	"testing"

	"cloister/secret"

	"golang.org/x/crypto/xts"
)

// oracle is golang.org/x/crypto/xts, one sector after the other.
func oracle(t testing.TB, key []byte, src []byte, sectorSize int, offset int64, encrypt bool) []byte {
	t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(src))
	for at := 0; at < len(src); at += sectorSize {
		crypt := c.Encrypt
		if !encrypt {
			crypt = c.Decrypt
		}
		crypt(out[at:at+sectorSize], src[at:at+sectorSize], uint64(offset+int64(at))/512)
	}
	return out
}

// agree compares one call with the oracle, and looks that nothing beside the
// destination changes. misalign moves source and destination in memory.
func agree(t testing.TB, path string, key, src []byte, sectorSize int, offset int64, misalign int, inPlace bool) {
	t.Helper()
	c, err := New(secret.New(bytes.Clone(key)))
	if err != nil {
		t.Fatal(err)
	}
	for _, encrypt := range []bool{true, false} {
		want := oracle(t, key, src, sectorSize, offset, encrypt)
		const fence = 64
		around := bytes.Repeat([]byte{0xA5}, fence+misalign+len(src)+fence)
		dst := around[fence+misalign:][:len(src)]
		from := append(make([]byte, misalign/2), src...)[misalign/2:]
		if inPlace {
			copy(dst, src)
			from = dst
		}
		if encrypt {
			c.Encrypt(dst, from, sectorSize, offset)
		} else {
			c.Decrypt(dst, from, sectorSize, offset)
		}
		what := fmt.Sprintf("%s: key of %d bytes, %d bytes in sectors of %d at %d, misaligned by %d, in place %v, encrypt %v",
			path, len(key), len(src), sectorSize, offset, misalign, inPlace, encrypt)
		if !bytes.Equal(dst, want) {
			t.Fatalf("%s: differs from x/crypto/xts", what)
		}
		if !inPlace && !bytes.Equal(from, src) {
			t.Fatalf("%s: the source was changed", what)
		}
		if bytes.Count(around[:fence+misalign], []byte{0xA5}) != fence+misalign || bytes.Count(around[fence+misalign+len(src):], []byte{0xA5}) != fence {
			t.Fatalf("%s: wrote beside the destination", what)
		}
	}
}

func TestEverySizeOffsetAndAlignmentGivesWhatXCryptoGives(t *testing.T) {
	random := rand.NewChaCha8([32]byte{7})
	offsets := []int64{0, 1, 7, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<40 - 3, 1<<50/4096 - 1} // in sectors
	eachPath(t, func(path string) {
		for _, keySize := range []int{32, 64} {
			for _, sectorSize := range []int{512, 1024, 2048, 4096} {
				for i, first := range offsets {
					for _, sectors := range []int{1, 2, 3, 17} {
						key, src := make([]byte, keySize), make([]byte, sectors*sectorSize)
						random.Read(key)
						random.Read(src)
						offset := first * int64(sectorSize)
						agree(t, path, key, src, sectorSize, offset, (7*i+sectors)%33, false)
						agree(t, path, key, src, sectorSize, offset, (5*i+sectors)%33, true)
					}
				}
			}
		}
	})
}

// A tweak's carries depend on its bits: many random ones, and many keys.
func TestManyRandomSectorsGiveWhatXCryptoGives(t *testing.T) {
	random := rand.New(rand.NewChaCha8([32]byte{8}))
	key, src := make([]byte, 64), make([]byte, 4096)
	eachPath(t, func(path string) {
		for range 500 {
			for i := range key {
				key[i] = byte(random.Uint32())
			}
			for i := range src {
				src[i] = byte(random.Uint32())
			}
			n := 32 << random.IntN(2)
			agree(t, path, key[:n], src, 4096, random.Int64N(1<<50)*4096, 0, true)
		}
	})
}

func FuzzAgainstXCrypto(f *testing.F) {
	f.Add(make([]byte, 64), make([]byte, 4096), uint8(3), uint64(0), uint8(0), true)
	f.Add(bytes.Repeat([]byte{0xFF}, 64), bytes.Repeat([]byte{0xFF}, 1024), uint8(0), uint64(1)<<33, uint8(5), false)
	f.Fuzz(func(t *testing.T, key, data []byte, size uint8, unit uint64, misalign uint8, inPlace bool) {
		key = append(key, make([]byte, 64)...)[:32+32*int(size>>7)]
		sectorSize := 512 << (size % 4)
		src := data[:len(data)/sectorSize*sectorSize]
		if len(src) > 64<<10 {
			src = src[:64<<10]
		}
		offset := int64(unit%(1<<50)) / int64(sectorSize) * int64(sectorSize)
		eachPath(t, func(path string) {
			agree(t, path, key, src, sectorSize, offset, int(misalign%64), inPlace)
		})
	})
}
