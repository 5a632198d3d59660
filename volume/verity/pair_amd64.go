//go:build !purego

package verity

import (
	"encoding/binary"

	"golang.org/x/sys/cpu"
)

// pairs tells whether the processor has SHA-NI: bit 29 of CPUID's leaf 7.
var pairs = cpu.X86.HasSSSE3 && features()>>29&1 != 0

const (
	shaBlock = 64 // bytes
	// whole is how many of SHA-256's blocks lie within a data block, after the
	// part that fills the salt's.
	whole = (BlockSize - (shaBlock - SaltSize)) / shaBlock
)

// initial is the initial hash value of FIPS 180-4, section 5.3.3, in the order
// of blocks2: F, E, B, A, H, G, D, C.
var initial = [8]uint32{
	0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667,
	0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372,
}

// sumPair appends SHA-256(salt || a) and SHA-256(salt || b).
func sumPair(to, salt, a, b []byte) []byte {
	state := [2][8]uint32{initial, initial}
	const head = shaBlock - SaltSize
	var edge [2][shaBlock]byte
	for i, data := range [2][]byte{a, b} {
		copy(edge[i][:], salt)
		copy(edge[i][SaltSize:], data[:head])
	}
	blocks2(&state, &edge[0][0], &edge[1][0], 1)
	blocks2(&state, &a[head], &b[head], whole)
	const tail = BlockSize - head - whole*shaBlock
	for i, data := range [2][]byte{a, b} {
		edge[i] = [shaBlock]byte{}
		copy(edge[i][:], data[BlockSize-tail:])
		edge[i][tail] = 0x80
		binary.BigEndian.PutUint64(edge[i][shaBlock-8:], 8*(SaltSize+BlockSize))
	}
	blocks2(&state, &edge[0][0], &edge[1][0], 1)
	for _, s := range state {
		for _, word := range [8]uint32{s[3], s[2], s[7], s[6], s[1], s[0], s[5], s[4]} {
			to = binary.BigEndian.AppendUint32(to, word)
		}
	}
	return to
}
