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

const ieeeKey = "2718281828459045235360287471352662497757247093699959574966967627" +
	"3141592653589793238462643383279502884197169399375105820974944592"

// IEEE 1619-2007, annex B, vector 10: data unit 0xff of 512 bytes.
func TestTheIEEEVectorComesOutAtTheOffsetThatItsDataUnitHas(t *testing.T) {
	c, err := New(key(t, ieeeKey))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 512)
	for i := range b {
		b[i] = byte(i)
	}
	c.Encrypt(b, b, 512, 0xff*512)
	if got := hex.EncodeToString(b[:16]); got != "1c3b3a102f770386e4836c99e370cf9b" {
		t.Errorf("first block %s", got)
	}
	if got := hex.EncodeToString(b[496:]); got != "c4f36ffda9fcea70b9c6e693e148c151" {
		t.Errorf("last block %s", got)
	}
}

// plain64 counts units of 512 bytes also when sectors are larger, so the first
// 512 bytes of a large sector are what a small one at the same offset gives.
func TestTheIVCounts512ByteUnitsWhateverTheSectorSize(t *testing.T) {
	c, err := New(key(t, ieeeKey))
	if err != nil {
		t.Fatal(err)
	}
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

func BenchmarkEncrypt4096(b *testing.B) {
	c, err := New(key(b, ieeeKey))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		c.Encrypt(buf, buf, 4096, 0)
	}
}
