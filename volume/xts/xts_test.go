package xts

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"testing"

	"cloister/secret"
)

func key(t testing.TB, hexKey string) secret.Bytes {
	t.Helper()
	b, err := hex.DecodeString(hexKey)
	if err != nil {
		t.Fatal(err)
	}
	return secret.New(b)
}

func newCipher(t testing.TB, hexKey string) *Cipher {
	t.Helper()
	c, err := New(key(t, hexKey))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// plain64 counts units of 512 bytes also when sectors are larger, so the first
// 512 bytes of a large sector are what a small one at the same offset gives.
func TestTheIVCounts512ByteUnitsWhateverTheSectorSize(t *testing.T) {
	c := newCipher(t, ieeeKey256)
	plain := make([]byte, 3*4096)
	rand.Read(plain)
	large, smallest := make([]byte, len(plain)), make([]byte, len(plain))
	c.Encrypt(large, plain, 4096, 7*4096)
	c.Encrypt(smallest, plain, 512, 7*4096)
	for at := 0; at < len(plain); at += 4096 {
		if !bytes.Equal(large[at:at+512], smallest[at:at+512]) {
			t.Errorf("sector at %d has another IV", at)
		}
		if bytes.Equal(large[at+512:at+1024], smallest[at+512:at+1024]) {
			t.Error("sector size has no effect: this test can't fail")
		}
	}
	c.Decrypt(large, large, 4096, 7*4096)
	if !bytes.Equal(large, plain) {
		t.Error("decrypting gives something else")
	}
}

func TestAKeyOfAnotherLengthIsRefused(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33, 48, 63, 65} {
		if _, err := New(secret.Alloc(n)); err == nil {
			t.Errorf("a key of %d bytes was accepted", n)
		}
	}
}

func TestWhatIsNoWholeSectorPanics(t *testing.T) {
	c := newCipher(t, ieeeKey256)
	b := make([]byte, 8192)
	for name, call := range map[string]func(){
		"sector of 0":            func() { c.Encrypt(b, b[:512], 0, 0) },
		"negative sector":        func() { c.Encrypt(b, b[:512], -512, 0) },
		"sector of 528":          func() { c.Encrypt(b, b[:528], 528, 0) },
		"half a sector":          func() { c.Encrypt(b, b[:4096+512], 4096, 0) },
		"offset between sectors": func() { c.Decrypt(b, b[:4096], 4096, 512) },
		"negative offset":        func() { c.Decrypt(b, b[:4096], 4096, -4096) },
		"short destination":      func() { c.Decrypt(b[:4095], b[:4096], 4096, 0) },
		"overlap above":          func() { c.Encrypt(b[16:], b[:4096], 512, 0) },
		"overlap below":          func() { c.Encrypt(b, b[16:4096+16], 512, 0) },
	} {
		if !panics(call) {
			t.Errorf("%s: accepted", name)
		}
	}
	if panics(func() {
		c.Encrypt(b[4096:], b[:4096], 512, 0)
		c.Encrypt(b, b[4096:], 4096, 0)
		c.Encrypt(nil, nil, 512, 0)
	}) {
		t.Error("neighbouring or empty buffers were refused")
	}
}

func TestAWipedCipherPanics(t *testing.T) {
	c := newCipher(t, ieeeKey256)
	c.Wipe()
	c.Wipe()
	b := make([]byte, 512)
	if !panics(func() { c.Encrypt(b, b, 512, 0) }) || !panics(func() { c.Decrypt(b, b, 512, 0) }) {
		t.Error("a wiped cipher was used")
	}
}

func panics(call func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	call()
	return false
}

func BenchmarkEncrypt(b *testing.B) { benchmark(b, (*Cipher).Encrypt) }
func BenchmarkDecrypt(b *testing.B) { benchmark(b, (*Cipher).Decrypt) }

func benchmark(b *testing.B, crypt func(*Cipher, []byte, []byte, int, int64)) {
	eachPath(b, func(path string) {
		for name, size := range map[string]int{"512": 512, "4096": 4096} {
			b.Run(path+"/"+name, func(b *testing.B) {
				c := newCipher(b, ieeeKey256)
				buf := make([]byte, 1<<20)
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					crypt(c, buf, buf, size, 0)
				}
			})
		}
	})
}
