package xts

import (
	"bytes"
	"encoding/hex"
	"testing"
)

const (
	ieeeKey128 = "2718281828459045235360287471352631415926535897932384626433832795"
	ieeeKey256 = "2718281828459045235360287471352662497757247093699959574966967627" +
		"3141592653589793238462643383279502884197169399375105820974944592"
)

// IEEE 1619-2007, annex B, the vectors whose data unit has 512 bytes and counts
// up from 00: first and last block of the ciphertext.
var ieeeVectors = []struct {
	number      int
	key         string
	unit        int64
	first, last string
}{
	{4, ieeeKey128, 0, "27a7479befa1d476489f308cd4cfa6e2", "0a282df920147beabe421ee5319d0568"},
	{10, ieeeKey256, 0xff, "1c3b3a102f770386e4836c99e370cf9b", "c4f36ffda9fcea70b9c6e693e148c151"},
	{11, ieeeKey256, 0xffff, "77a31251618a15e6b92d1d66dffe7b50", "a4f9e27b42af8100cb9d59cef9645803"},
	{12, ieeeKey256, 0xffffff, "e387aaa58ba483afa7e8eb469778317e", "2263a1eef52dd6888c309f5a7d712826"},
	{13, ieeeKey256, 0xffffffff, "bf53d2dade78e822a4d949a9bc6766b0", "4c82f335abb152c4a93411373aaa8220"},
	{14, ieeeKey256, 0xffffffffff, "64497e5a831e4a932c09be3e5393376d", "d609d273ad5b0d59631c531f6a0a57b9"},
}

func TestTheVectorsOfIEEE1619ComeOutAtTheOffsetOfTheirDataUnit(t *testing.T) {
	plain := make([]byte, 512)
	for i := range plain {
		plain[i] = byte(i)
	}
	eachPath(t, func(path string) {
		for _, v := range ieeeVectors {
			c := newCipher(t, v.key)
			b := bytes.Clone(plain)
			c.Encrypt(b, b, 512, v.unit*512)
			if first, last := hex.EncodeToString(b[:16]), hex.EncodeToString(b[496:]); first != v.first || last != v.last {
				t.Errorf("%s, vector %d: %s … %s, want %s … %s", path, v.number, first, last, v.first, v.last)
			}
			c.Decrypt(b, b, 512, v.unit*512)
			if !bytes.Equal(b, plain) {
				t.Errorf("%s, vector %d: decrypting gives something else", path, v.number)
			}
		}
	})
}
