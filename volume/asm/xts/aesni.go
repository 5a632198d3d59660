package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	blockSize = 16
	lanes     = 8 // blocks or vectors in flight, enough to hide AESENC's latency
)

// arguments are those of all four functions that crypt.
type arguments struct {
	keys, tweakKeys, rounds, iv, dst, src, n reg.Register
}

// crypt begins a function over n bytes.
func crypt(name, doc string) arguments {
	TEXT(name, NOSPLIT, "func(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int)")
	Pragma("noescape")
	Doc(name + " " + doc)
	load := func(p string) reg.Register { return Load(Param(p), GP64()) }
	return arguments{load("keys"), load("tweakKeys"), load("rounds"), load("iv"), load("dst"), load("src"), load("n")}
}

func at(base reg.Register, i int) Mem { return Mem{Base: base, Disp: i * blockSize} }

// eachRound calls round for the rounds between the first key and the last: 9
// of AES-128, 13 of AES-256.
func eachRound(label string, rounds reg.Register, round func(i int)) {
	for i := 1; i < 10; i++ {
		round(i)
	}
	CMPQ(rounds, U8(10))
	JE(LabelRef(label))
	for i := 10; i < 14; i++ {
		round(i)
	}
	Label(label)
}

// lastKey is where the key of the last round lies, 16 bytes for each round
// from keys on.
func lastKey(keys, rounds reg.Register) reg.Register {
	last := GP64()
	MOVQ(rounds, last)
	SHLQ(U8(4), last)
	ADDQ(keys, last)
	return last
}

// aesNI works on 8 blocks at a time. 16 registers do not hold 8 blocks and 8
// tweaks, so the tweaks wait on the stack.
func aesNI(name string, encrypt bool) {
	a := crypt(name, "needs AES-NI and an n that is a multiple of 128.")
	round, final := AESENC, AESENCLAST
	if !encrypt {
		round, final = AESDEC, AESDECLAST
	}
	poly := GLOBL(name+"Poly", RODATA|NOPTR)
	// The bits that a carry out of each half goes to: x^128 = x^7+x^2+x+1.
	DATA(0, U64(0x87))
	DATA(8, U64(1))

	// Fixed registers: avo takes AESDEC to overwrite its destination, not to
	// change it, and would give all blocks the same one.
	x := [lanes]reg.Register{reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7}
	tweak, mask, key, carry := reg.X8, reg.X9, reg.X10, reg.X11
	MOVOU(at(a.iv, 0), tweak)
	MOVOU(at(a.tweakKeys, 0), key)
	PXOR(key, tweak)
	one := func(i int) {
		MOVOU(at(a.tweakKeys, i), key)
		AESENC(key, tweak)
	}
	eachRound("tweak", a.rounds, one)
	MOVOU(at(lastKey(a.tweakKeys, a.rounds), 0), key)
	AESENCLAST(key, tweak)

	MOVOU(poly, mask)
	last := lastKey(a.keys, a.rounds)
	saved := AllocLocal(lanes * blockSize)
	Label("blocks")
	MOVOU(at(a.keys, 0), key)
	for i := range x {
		MOVOU(at(a.src, i), x[i])
		MOVOU(tweak, saved.Offset(i*blockSize))
		PXOR(tweak, x[i])
		PXOR(key, x[i])
		// tweak × x: both halves doubled, and what falls out of each in the
		// other, reduced. Double words 3 and 1 carry the halves' top bits.
		PSHUFD(U8(0x13), tweak, carry)
		PADDQ(tweak, tweak)
		PSRAL(U8(31), carry)
		PAND(mask, carry)
		PXOR(carry, tweak)
	}
	eachRound("last", a.rounds, func(i int) {
		MOVOU(at(a.keys, i), key)
		for k := range x {
			round(key, x[k])
		}
	})
	MOVOU(at(last, 0), key)
	for i := range x {
		final(key, x[i])
		MOVOU(saved.Offset(i*blockSize), carry)
		PXOR(carry, x[i])
		MOVOU(x[i], at(a.dst, i))
	}
	ADDQ(U32(lanes*blockSize), a.src)
	ADDQ(U32(lanes*blockSize), a.dst)
	SUBQ(U32(lanes*blockSize), a.n)
	JNZ(LabelRef("blocks"))
	RET()
}
