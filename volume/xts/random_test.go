package xts

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"cloister/secret"
)

// Where an IV is a number below 2^64, x/crypto is an oracle for the loop; for
// all others the loop is one for the assembly.
func TestASectorUnderAGivenIVIsWhatXTSSays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for _, keySize := range []int{32, 64} {
		key := random(keySize)
		loop, err := newPortable(key)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			src, iv := random(4096), random(IVSize)
			n := numbers(iv)
			counted := [2]uint64{n[0]}
			want, got := make([]byte, len(src)), make([]byte, len(src))
			loop.counted.Encrypt(want, src, counted[0])
			loop.blocks(got, src, counted, loop.data.Encrypt)
			if !bytes.Equal(want, got) {
				t.Fatalf("the loop differs from x/crypto for IV %x", counted)
			}
			loop.blocks(want, src, n, loop.data.Encrypt)
			eachPath(t, func(path string) {
				c, err := New(secret.New(bytes.Clone(key)))
				if err != nil {
					t.Fatal(err)
				}
				c.EncryptSector(got, src, iv)
				if !bytes.Equal(got, want) {
					t.Fatalf("%s encrypts otherwise than the loop, IV %x", path, iv)
				}
				c.DecryptSector(got, got, iv)
				if !bytes.Equal(got, src) {
					t.Fatalf("%s does not decrypt what it encrypted, IV %x", path, iv)
				}
			})
		}
	}
}

func TestAnIVOfAnotherLengthPanics(t *testing.T) {
	c, err := New(secret.New(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 8, 15, 17} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			c.DecryptSector(make([]byte, 4096), make([]byte, 4096), binary.LittleEndian.AppendUint64(make([]byte, 0, 32), 1)[:n:32])
		})
	}
}
