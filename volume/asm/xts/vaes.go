package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	vectorSize = 64
	perVector  = vectorSize / blockSize
)

// vaes works on 32 blocks at a time, four in each of 8 registers of 512 bits,
// with as many for their tweaks.
func vaes(name string, encrypt bool) {
	a := crypt(name, "needs VAES, VPCLMULQDQ, AVX512BW and an n that is a multiple of 512.")
	round, final := VAESENC, VAESENCLAST
	if !encrypt {
		round, final = VAESDEC, VAESDECLAST
	}
	consts := GLOBL(name+"Consts", RODATA|NOPTR)
	for q := range 8 {
		DATA(q*8, U64(q/2)) // by how much each lane's block is shifted left
	}
	for q := range 8 {
		DATA(vectorSize+q*8, U64(64-q/2)) // and what it loses right
	}
	DATA(2*vectorSize, U64(0x87)) // x^128 = x^7+x^2+x+1
	DATA(2*vectorSize+8, U64(perVector))

	first, key128 := XMM(), XMM()
	VMOVDQU(at(a.iv, 0), first)
	VPXOR(at(a.tweakKeys, 0), first, first)
	eachRound("tweak", a.rounds, func(i int) { VAESENC(at(a.tweakKeys, i), first, first) })
	VMOVDQU(at(lastKey(a.tweakKeys, a.rounds), 0), key128)
	VAESENCLAST(key128, first, first)

	var x, tweak [lanes]reg.VecVirtual
	for i := range x {
		x[i], tweak[i] = ZMM(), ZMM()
	}
	key, poly := ZMM(), ZMM()
	left, right, step, all, low := ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
	VSHUFI64X2(U8(0), first.AsZ(), first.AsZ(), all)
	VMOVDQU64(consts.Offset(0), left)
	VMOVDQU64(consts.Offset(vectorSize), right)
	VPBROADCASTQ(consts.Offset(2*vectorSize), poly)
	VPBROADCASTQ(consts.Offset(2*vectorSize+8), step)
	// Block k's tweak is the first × x^k: both halves shifted left by k, the
	// low one's upper bits into the high one, the high one's reduced.
	for i := range tweak {
		VPSLLVQ(left, all, tweak[i])
		VPSRLVQ(right, all, key)
		VPSLLDQ(U8(8), key, low)
		VPXORQ(low, tweak[i], tweak[i])
		VPCLMULQDQ(U8(0x01), poly, key, key)
		VPXORQ(key, tweak[i], tweak[i])
		if i+1 < lanes {
			VPADDQ(step, left, left)
			VPSUBQ(step, right, right)
		}
	}

	last := lastKey(a.keys, a.rounds)
	Label("blocks")
	VBROADCASTI32X4(at(a.keys, 0), key)
	for i := range x {
		VMOVDQU64(Mem{Base: a.src, Disp: i * vectorSize}, x[i])
		VPTERNLOGQ(U8(0x96), key, tweak[i], x[i]) // x ^= tweak ^ key
	}
	eachRound("last", a.rounds, func(i int) {
		VBROADCASTI32X4(at(a.keys, i), key)
		for k := range x {
			round(key, x[k], x[k])
		}
	})
	VBROADCASTI32X4(at(last, 0), key)
	for i := range x {
		final(key, x[i], x[i])
		VPXORQ(tweak[i], x[i], x[i])
		VMOVDQU64(x[i], Mem{Base: a.dst, Disp: i * vectorSize})
		// tweak × x^32: shifted by four bytes, those that fall out reduced.
		VPSRLDQ(U8(12), tweak[i], low)
		VPSLLDQ(U8(4), tweak[i], tweak[i])
		VPCLMULQDQ(U8(0), poly, low, low)
		VPXORQ(low, tweak[i], tweak[i])
	}
	ADDQ(U32(lanes*vectorSize), a.src)
	ADDQ(U32(lanes*vectorSize), a.dst)
	SUBQ(U32(lanes*vectorSize), a.n)
	JNZ(LabelRef("blocks"))
	VZEROUPPER()
	RET()
}
