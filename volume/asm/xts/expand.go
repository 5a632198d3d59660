package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// subWord is SubWord of FIPS 197, section 5.2: AESKEYGENASSIST puts it of its
// source's double word 1 into double word 0.
func subWord() {
	TEXT("subWord", NOSPLIT, "func(w uint32) uint32")
	Doc("subWord puts each byte of w through AES's S-box.")
	w := GP32()
	Load(Param("w"), w)
	x := XMM()
	MOVD(w, x)
	PSHUFD(U8(0), x, x)
	AESKEYGENASSIST(U8(0), x, x)
	MOVD(x, w)
	Store(w, ReturnIndex(0))
	RET()
}

func invMixColumns() {
	TEXT("invMixColumns", NOSPLIT, "func(dst, src *byte)")
	Pragma("noescape")
	Doc("invMixColumns turns a round key for encryption, 16 bytes, into one for the",
		"equivalent inverse cipher (FIPS 197, section 5.3.5).")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	x := XMM()
	MOVOU(Mem{Base: src}, x)
	AESIMC(x, x)
	MOVOU(x, Mem{Base: dst})
	RET()
}
