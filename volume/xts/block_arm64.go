//go:build !purego

package xts

import "golang.org/x/sys/cpu"

func accelerated(key []byte) sectorCipher {
	if !cpu.ARM64.HasAES {
		return nil
	}
	return newSchedule(key)
}

// subWord puts each byte of w through AES's S-box.
func subWord(w uint32) uint32

// invMixColumns turns a round key for encryption, 16 bytes, into one for the
// equivalent inverse cipher (FIPS 197, section 5.3.5).
//
//go:noescape
func invMixColumns(dst, src *byte)

// encrypt needs an n that is a multiple of 128, and scheduleSize bytes of keys
// whatever the number of rounds.
//
//go:noescape
func encrypt(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int)

// decrypt is the inverse of encrypt, with the keys of the inverse cipher.
//
//go:noescape
func decrypt(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int)
