//go:build !purego

package verity

import (
	"encoding/binary"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/cpu"
)

var (
	pairs    = sideBySide{2, sumPair}
	sixteens = sideBySide{messages, sumSixteen}
)

// possible returns the ways that this processor has instructions for.
func possible() (all []sideBySide) {
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW {
		all = append(all, sixteens)
	}
	const shaNI = 1 << 29 // in EBX of CPUID's leaf 7
	if cpu.X86.HasSSSE3 && features()&shaNI != 0 {
		all = append(all, pairs)
	}
	return all
}

// fastest returns the way to take, and what to do with the blocks that are
// left. Which one is faster depends on the processor's generation, so both are
// tried once, for some hundred microseconds.
var fastest = sync.OnceValue(func() []sideBySide {
	all := possible()
	if len(all) == 2 && timed(all[:1]) > timed(all[1:]) {
		return all[1:]
	}
	return all
})

// timed returns the shortest of four times for 16 blocks.
func timed(wide []sideBySide) time.Duration {
	h := &Hasher{salt: make([]byte, SaltSize), wide: wide}
	data, out := make([]byte, messages*BlockSize), make([]byte, 0, messages*DigestSize)
	least := time.Duration(math.MaxInt64)
	for range 4 {
		begin := time.Now()
		h.Append(out, data)
		least = min(least, time.Since(begin))
	}
	return least
}

const (
	messages = 16 // that blocks16 takes
	shaBlock = 64 // bytes
	// whole is how many of SHA-256's blocks lie within a data block, after the
	// part that fills the salt's.
	whole = (BlockSize - head) / shaBlock
	head  = shaBlock - SaltSize
	tail  = BlockSize - head - whole*shaBlock
)

// initial is the initial hash value of FIPS 180-4, section 5.3.3, in the order
// of blocks2: F, E, B, A, H, G, D, C.
var initial = [8]uint32{
	0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667,
	0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372,
}

// begin is the first of SHA-256's blocks: the salt and the data block's head.
func begin(salt, data []byte) (b [shaBlock]byte) {
	copy(b[copy(b[:], salt):], data[:head])
	return b
}

// end is the last: the data block's tail, and the padding.
func end(data []byte) (b [shaBlock]byte) {
	b[copy(b[:], data[BlockSize-tail:BlockSize])] = 0x80
	binary.BigEndian.PutUint64(b[shaBlock-8:], 8*(SaltSize+BlockSize))
	return b
}

// inOrder tells where blocks2 has A to H.
var inOrder = [8]int{3, 2, 7, 6, 1, 0, 5, 4}

func sumPair(to, salt, data []byte) []byte {
	a, b := data[:BlockSize], data[BlockSize:2*BlockSize]
	state := [2][8]uint32{initial, initial}
	edgeA, edgeB := begin(salt, a), begin(salt, b)
	blocks2(&state, &edgeA[0], &edgeB[0], 1)
	blocks2(&state, &a[head], &b[head], whole)
	edgeA, edgeB = end(a), end(b)
	blocks2(&state, &edgeA[0], &edgeB[0], 1)
	for _, s := range state {
		for _, word := range inOrder {
			to = binary.BigEndian.AppendUint32(to, s[word])
		}
	}
	return to
}

func sumSixteen(to, salt, data []byte) []byte {
	data = data[:messages*BlockSize]
	var state [8][messages]uint32
	for i, word := range inOrder {
		for m := range messages {
			state[i][m] = initial[word]
		}
	}
	var edges [messages][shaBlock]byte
	for m := range edges {
		edges[m] = begin(salt, data[m*BlockSize:])
	}
	blocks16(&state, &edges[0][0], shaBlock, 1)
	blocks16(&state, &data[head], BlockSize, whole)
	for m := range edges {
		edges[m] = end(data[m*BlockSize:])
	}
	blocks16(&state, &edges[0][0], shaBlock, 1)
	for m := range messages {
		for i := range state {
			to = binary.BigEndian.AppendUint32(to, state[i][m])
		}
	}
	return to
}
