//go:build (amd64 || arm64) && !purego

package xts

import (
	"encoding/binary"
	"math/bits"

	"cloister/secret"
)

// scheduleSize is the room for the round keys of one AES key: the 15 of
// AES-256, 16 bytes each.
const scheduleSize = 15 * 16

// schedule is a sectorCipher in assembly. It holds three times scheduleSize
// bytes: the round keys for encryption and for decryption of the data, and
// those for encryption of the tweak.
type schedule struct {
	rounds int // 10 or 14
	keys   secret.Bytes
}

// newSchedule expands both halves of an XTS key: the data's, then the tweak's.
func newSchedule(key []byte) *schedule {
	s := &schedule{keys: secret.Alloc(3 * scheduleSize)}
	half := len(key) / 2
	encrypt, decrypt, tweak := s.parts()
	s.rounds = expand(encrypt, key[:half])
	expand(tweak, key[half:])
	invert(decrypt, encrypt, s.rounds)
	return s
}

func (s *schedule) parts() (encrypt, decrypt, tweak []byte) {
	b := s.keys.Reveal()
	return b[:scheduleSize], b[scheduleSize : 2*scheduleSize], b[2*scheduleSize:]
}

func (s *schedule) wipe() { s.keys.Wipe() }

func (s *schedule) encrypt(dst, src []byte, iv [2]uint64) {
	keys, _, tweak := s.parts()
	encrypt(&keys[0], &tweak[0], s.rounds, &iv, &dst[0], &src[0], len(src))
}

func (s *schedule) decrypt(dst, src []byte, iv [2]uint64) {
	_, keys, tweak := s.parts()
	decrypt(&keys[0], &tweak[0], s.rounds, &iv, &dst[0], &src[0], len(src))
}

// expand is KeyExpansion of FIPS 197, section 5.2. It puts the round keys into
// w and returns the number of rounds. subWord is an instruction, not a table.
func expand(w, key []byte) (rounds int) {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(w[4*i:]) }
	words := len(key) / 4
	rounds = words + 6
	copy(w, key)
	rcon := uint32(1)
	for i := words; i < 4*(rounds+1); i++ {
		t := word(i - 1)
		switch {
		case i%words == 0:
			t = bits.RotateLeft32(subWord(t), -8) ^ rcon
			if rcon <<= 1; rcon == 0x100 {
				rcon = 0x1B // x^8 in AES's field
			}
		case words == 8 && i%words == 4:
			t = subWord(t)
		}
		binary.LittleEndian.PutUint32(w[4*i:], word(i-words)^t)
	}
	return rounds
}

// invert gives the round keys of the equivalent inverse cipher, FIPS 197,
// section 5.3.5.
func invert(out, keys []byte, rounds int) {
	copy(out[:16], keys[16*rounds:16*rounds+16])
	for i := 1; i < rounds; i++ {
		invMixColumns(&out[16*i], &keys[16*(rounds-i)])
	}
	copy(out[16*rounds:16*rounds+16], keys[:16])
}
