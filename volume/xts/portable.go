package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"

	"golang.org/x/crypto/xts"
)

// portable is a sectorCipher for every processor: x/crypto's where the IV is a
// counted sector, which is all that it takes, and a loop over crypto/aes where
// the IV is any 16 bytes.
type portable struct {
	counted     *xts.Cipher
	data, tweak cipher.Block
}

// newPortable expands both halves of an XTS key: the data's, then the tweak's.
func newPortable(key []byte) (*portable, error) {
	counted, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return nil, err
	}
	data, err := aes.NewCipher(key[:len(key)/2])
	if err != nil {
		return nil, err
	}
	tweak, err := aes.NewCipher(key[len(key)/2:])
	return &portable{counted, data, tweak}, err
}

func (p *portable) encrypt(dst, src []byte, iv [2]uint64) {
	if iv[1] == 0 {
		p.counted.Encrypt(dst, src, iv[0])
		return
	}
	p.blocks(dst, src, iv, p.data.Encrypt)
}

func (p *portable) decrypt(dst, src []byte, iv [2]uint64) {
	if iv[1] == 0 {
		p.counted.Decrypt(dst, src, iv[0])
		return
	}
	p.blocks(dst, src, iv, p.data.Decrypt)
}

// blocks is IEEE 1619-2007, section 5.3, for whole blocks.
func (p *portable) blocks(dst, src []byte, iv [2]uint64, crypt func(dst, src []byte)) {
	var t, x [aes.BlockSize]byte
	binary.LittleEndian.PutUint64(t[:], iv[0])
	binary.LittleEndian.PutUint64(t[8:], iv[1])
	p.tweak.Encrypt(t[:], t[:])
	for i := 0; i < len(src); i += aes.BlockSize {
		subtle.XORBytes(x[:], src[i:i+aes.BlockSize], t[:])
		crypt(x[:], x[:])
		subtle.XORBytes(dst[i:i+aes.BlockSize], x[:], t[:])
		double(&t)
	}
}

// double multiplies by x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1.
func double(t *[aes.BlockSize]byte) {
	low, high := binary.LittleEndian.Uint64(t[:]), binary.LittleEndian.Uint64(t[8:])
	carry := high >> 63
	binary.LittleEndian.PutUint64(t[8:], high<<1|low>>63)
	binary.LittleEndian.PutUint64(t[:], low<<1^carry*0x87)
}
