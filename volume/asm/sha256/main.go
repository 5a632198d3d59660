// Command sha256 writes sha256_amd64.s of package verity and its declarations:
//
//	go generate ./volume/verity     (from the top of the repository)
//
// The source is FIPS 180-4 and Intel's description of the SHA extensions.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const blockSize = 64

// A stream is one of the two messages. All registers are fixed: some of the
// instructions change what avo takes them to overwrite.
type stream struct {
	abef, cdgh reg.Register // the state, as SHA256RNDS2 wants it
	m          [4]reg.Register
	tmp        reg.Register
	from       reg.Register
	saved      Mem
}

func main() {
	ConstraintExpr("!purego")
	TEXT("blocks2", NOSPLIT, "func(state *[2][8]uint32, a, b *byte, n int)")
	Pragma("noescape")
	Doc("blocks2 runs SHA-256's compression function over n blocks of 64 bytes at a and",
		"as many at b, side by side. Each state has the order F, E, B, A, H, G, D, C.",
		"It needs SHA-NI and SSSE3.")
	state := Load(Param("state"), reg.RAX)
	x := [2]stream{
		{reg.X1, reg.X2, [4]reg.Register{reg.X3, reg.X4, reg.X5, reg.X6}, reg.X7, Load(Param("a"), reg.RBX), AllocLocal(32)},
		{reg.X8, reg.X9, [4]reg.Register{reg.X10, reg.X11, reg.X12, reg.X13}, reg.X14, Load(Param("b"), reg.RCX), AllocLocal(32)},
	}
	n := Load(Param("n"), reg.RDX)
	swap := reg.X15
	MOVOU(bigEndian(), swap)
	k := constants()
	for i, s := range x {
		MOVOU(Mem{Base: state, Disp: 32 * i}, s.abef)
		MOVOU(Mem{Base: state, Disp: 32*i + 16}, s.cdgh)
	}
	Label("block")
	for _, s := range x {
		MOVOU(s.abef, s.saved)
		MOVOU(s.cdgh, s.saved.Offset(16))
		for w, m := range s.m {
			MOVOU(Mem{Base: s.from, Disp: 16 * w}, m)
			PSHUFB(swap, m)
		}
	}
	for i := range 16 { // four rounds each
		for _, s := range x {
			s.rounds(i, k.Offset(16*i))
		}
	}
	for _, s := range x {
		MOVOU(s.saved, s.tmp)
		PADDD(s.tmp, s.abef)
		MOVOU(s.saved.Offset(16), s.tmp)
		PADDD(s.tmp, s.cdgh)
		ADDQ(U8(blockSize), s.from)
	}
	DECQ(n)
	JNZ(LabelRef("block"))
	for i, s := range x {
		MOVOU(s.abef, Mem{Base: state, Disp: 32 * i})
		MOVOU(s.cdgh, Mem{Base: state, Disp: 32*i + 16})
	}
	RET()
	blocks16(k)
	features()
	Generate()
}

// features is for what golang.org/x/sys/cpu does not tell.
func features() {
	TEXT("features", NOSPLIT, "func() uint32")
	Doc("features returns EBX of CPUID's leaf 7, or 0 where there is none.")
	leaf := reg.EAX
	XORL(leaf, leaf)
	CPUID()
	XORL(reg.EBX, reg.EBX)
	CMPL(leaf, U8(7))
	JL(LabelRef("done"))
	MOVL(U32(7), leaf)
	XORL(reg.ECX, reg.ECX)
	CPUID()
	Label("done")
	Store(reg.EBX, ReturnIndex(0))
	RET()
}

// rounds does rounds 4i to 4i+3, and prepares words of the message schedule.
// SHA256RNDS2 takes words plus constants from X0.
func (s stream) rounds(i int, k Mem) {
	current, next, previous := s.m[i%4], s.m[(i+1)%4], s.m[(i+3)%4]
	MOVOU(k, reg.X0)
	PADDD(current, reg.X0)
	SHA256RNDS2(reg.X0, s.abef, s.cdgh)
	if i >= 3 && i < 15 {
		MOVO(current, s.tmp)
		PALIGNR(U8(4), previous, s.tmp)
		PADDD(s.tmp, next)
		SHA256MSG2(current, next)
	}
	PSHUFD(U8(0x0E), reg.X0, reg.X0)
	SHA256RNDS2(reg.X0, s.cdgh, s.abef)
	if i >= 1 && i < 13 {
		SHA256MSG1(current, previous)
	}
}

// bigEndian is the shuffle that swaps the bytes of each word.
func bigEndian() Mem {
	m := GLOBL("bigEndian", RODATA|NOPTR)
	DATA(0, U64(0x0405060700010203))
	DATA(8, U64(0x0c0d0e0f08090a0b))
	return m
}

// constants are those of FIPS 180-4, section 4.2.2: the first 32 bits of the
// fractional parts of the cube roots of the first 64 primes.
func constants() Mem {
	m := GLOBL("constants", RODATA|NOPTR)
	for i, k := range []uint32{
		0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
		0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
		0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
		0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
		0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
		0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
		0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
		0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
	} {
		DATA(4*i, U32(k))
	}
	return m
}
