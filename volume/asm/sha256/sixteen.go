package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const messages = 16

// sixteen hashes one message in each of a vector's words: register a holds
// the word A of all messages, w[i] their i-th words of the message schedule.
type sixteen struct {
	s   [8]reg.VecVirtual // a to h; renamed after each round
	w   [16]reg.VecVirtual
	k   Mem
	tmp [4]reg.VecVirtual
}

func blocks16(k Mem) {
	TEXT("blocks16", NOSPLIT, "func(state *[8][16]uint32, first *byte, stride uintptr, n int)")
	Pragma("noescape")
	Doc("blocks16 runs SHA-256's compression function over n blocks of 64 bytes of 16",
		"messages side by side. Message i begins at first + i×stride; state[j][i] is the",
		"j-th word of its hash value. It needs AVX512F and AVX512BW.")
	state, first := Load(Param("state"), GP64()), Load(Param("first"), GP64())
	stride, n := Load(Param("stride"), GP64()), Load(Param("n"), GP64())
	swap := GLOBL("bigEndian16", RODATA|NOPTR)
	for lane := range 4 {
		DATA(16*lane, U64(0x0405060700010203))
		DATA(16*lane+8, U64(0x0c0d0e0f08090a0b))
	}
	x := &sixteen{k: k}
	for _, r := range [][]reg.VecVirtual{x.s[:], x.w[:], x.tmp[:]} {
		for i := range r {
			r[i] = ZMM()
		}
	}
	for i, r := range x.s {
		VMOVDQU32(Mem{Base: state, Disp: 64 * i}, r)
	}
	Label("block16")
	row := GP64()
	MOVQ(first, row)
	for i, w := range x.w {
		VMOVDQU32(Mem{Base: row}, w)
		VPSHUFB(swap, w, w)
		if i+1 < messages {
			ADDQ(stride, row)
		}
	}
	x.transpose()
	for t := range 64 {
		x.round(t)
	}
	for i, r := range x.s { // after 64 rounds each is where it began
		VPADDD(Mem{Base: state, Disp: 64 * i}, r, r)
		VMOVDQU32(r, Mem{Base: state, Disp: 64 * i})
	}
	ADDQ(U8(blockSize), first)
	DECQ(n)
	JNZ(LabelRef("block16"))
	VZEROUPPER()
	RET()
}

// transpose turns w from a message in each register into a word in each.
func (x *sixteen) transpose() {
	spare := x.tmp[0]
	// exchange puts low(a, b) and high(a, b) in a and b.
	exchange := func(a, b *reg.VecVirtual, low, high func(a, b, to reg.VecVirtual)) {
		low(*a, *b, spare)
		high(*a, *b, *b)
		*a, spare = spare, *a
	}
	shuffle := func(lanes uint64) func(a, b, to reg.VecVirtual) {
		return func(a, b, to reg.VecVirtual) { VSHUFI32X4(U8(lanes), b, a, to) }
	}
	w := &x.w
	for i := 0; i < messages; i += 2 {
		exchange(&w[i], &w[i+1],
			func(a, b, to reg.VecVirtual) { VPUNPCKLDQ(b, a, to) },
			func(a, b, to reg.VecVirtual) { VPUNPCKHDQ(b, a, to) })
	}
	for i := 0; i < messages; i += 4 {
		for _, j := range []int{i, i + 1} {
			exchange(&w[j], &w[j+2],
				func(a, b, to reg.VecVirtual) { VPUNPCKLQDQ(b, a, to) },
				func(a, b, to reg.VecVirtual) { VPUNPCKHQDQ(b, a, to) })
		}
		w[i+1], w[i+2] = w[i+2], w[i+1]
	}
	// Lane L of w[4q+j] is now word 4L+j of the messages 4q to 4q+3.
	for j := range 4 {
		exchange(&w[j], &w[4+j], shuffle(0x44), shuffle(0xEE))
		exchange(&w[8+j], &w[12+j], shuffle(0x44), shuffle(0xEE))
		exchange(&w[j], &w[8+j], shuffle(0x88), shuffle(0xDD))
		exchange(&w[4+j], &w[12+j], shuffle(0x88), shuffle(0xDD))
		w[4+j], w[8+j] = w[8+j], w[4+j]
	}
	x.tmp[0] = spare
}

// round is one round; from the 16th on it first makes its word of the schedule.
func (x *sixteen) round(t int) {
	const xor, choose, majority = 0x96, 0xCA, 0xE8 // truth tables for VPTERNLOGD
	a, b, c, d, e, f, g, h := x.s[0], x.s[1], x.s[2], x.s[3], x.s[4], x.s[5], x.s[6], x.s[7]
	w := x.w[t%16]
	rotated := func(of, to, u, v reg.VecVirtual, i, j, k uint64) { // Σ of FIPS 180-4
		VPRORD(U8(i), of, to)
		VPRORD(U8(j), of, u)
		VPRORD(U8(k), of, v)
		VPTERNLOGD(U8(xor), v, u, to)
	}
	mixed := func(of, to, u, v reg.VecVirtual, i, j, shift uint64) { // σ
		VPRORD(U8(i), of, to)
		VPRORD(U8(j), of, u)
		VPSRLD(U8(shift), of, v)
		VPTERNLOGD(U8(xor), v, u, to)
	}
	t0, t1, t2, t3 := x.tmp[0], x.tmp[1], x.tmp[2], x.tmp[3]
	if t >= 16 {
		mixed(x.w[(t+1)%16], t0, t1, t2, 7, 18, 3)
		VPADDD(x.w[(t+9)%16], w, w)
		mixed(x.w[(t+14)%16], t1, t2, t3, 17, 19, 10)
		VPADDD(t0, w, w)
		VPADDD(t1, w, w)
	}
	VPADDD_BCST(x.k.Offset(4*t), h, h)
	VPADDD(w, h, h)
	VMOVDQA32(e, t0)
	VPTERNLOGD(U8(choose), g, f, t0)
	rotated(e, t1, t2, t3, 6, 11, 25)
	VPADDD(t0, h, h)
	VPADDD(t1, h, h)
	VPADDD(h, d, d)
	VMOVDQA32(a, t0)
	VPTERNLOGD(U8(majority), c, b, t0)
	rotated(a, t1, t2, t3, 2, 13, 22)
	VPADDD(t0, h, h)
	VPADDD(t1, h, h)
	x.s = [8]reg.VecVirtual{h, a, b, c, d, e, f, g}
}
