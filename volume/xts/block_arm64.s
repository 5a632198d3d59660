//go:build !purego

#include "textflag.h"

// All functions take expanded keys, so none branches or loads by a secret.

// func subWord(w uint32) uint32
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVWU w+0(FP), R0
	VEOR  V1.B16, V1.B16, V1.B16
	VMOV  R0, V0.S4               // four equal columns: ShiftRows changes nothing
	AESE  V1.B16, V0.B16
	VMOV  V0.S[0], R0
	MOVW  R0, ret+8(FP)
	RET

// func invMixColumns(dst, src *byte)
TEXT ·invMixColumns(SB), NOSPLIT, $0-16
	MOVD   dst+0(FP), R0
	MOVD   src+8(FP), R1
	VLD1   (R1), [V0.B16]
	AESIMC V0.B16, V0.B16
	VST1   [V0.B16], (R0)
	RET

// A round of eight blocks, V0 to V7. AESE adds the key first.
#define ROUND(aes, mix, k) \
	aes k.B16, V0.B16; mix V0.B16, V0.B16 \
	aes k.B16, V1.B16; mix V1.B16, V1.B16 \
	aes k.B16, V2.B16; mix V2.B16, V2.B16 \
	aes k.B16, V3.B16; mix V3.B16, V3.B16 \
	aes k.B16, V4.B16; mix V4.B16, V4.B16 \
	aes k.B16, V5.B16; mix V5.B16, V5.B16 \
	aes k.B16, V6.B16; mix V6.B16, V6.B16 \
	aes k.B16, V7.B16; mix V7.B16, V7.B16

// The last round, and the last key with the tweak.
#define LAST(aes, k, final) \
	aes  k.B16, V0.B16; VEOR final.B16, V0.B16, V0.B16 \
	aes  k.B16, V1.B16; VEOR final.B16, V1.B16, V1.B16 \
	aes  k.B16, V2.B16; VEOR final.B16, V2.B16, V2.B16 \
	aes  k.B16, V3.B16; VEOR final.B16, V3.B16, V3.B16 \
	aes  k.B16, V4.B16; VEOR final.B16, V4.B16, V4.B16 \
	aes  k.B16, V5.B16; VEOR final.B16, V5.B16, V5.B16 \
	aes  k.B16, V6.B16; VEOR final.B16, V6.B16, V6.B16 \
	aes  k.B16, V7.B16; VEOR final.B16, V7.B16, V7.B16

#define ADD_TWEAKS \
	VEOR V8.B16, V0.B16, V0.B16 \
	VEOR V9.B16, V1.B16, V1.B16 \
	VEOR V10.B16, V2.B16, V2.B16 \
	VEOR V11.B16, V3.B16, V3.B16 \
	VEOR V12.B16, V4.B16, V4.B16 \
	VEOR V13.B16, V5.B16, V5.B16 \
	VEOR V14.B16, V6.B16, V6.B16 \
	VEOR V15.B16, V7.B16, V7.B16

// R7 and R8 hold the next tweak's halves. It goes into v and is multiplied by
// x, modulo x^128+x^7+x^2+x+1. R10 is 0x87. The general registers have nothing
// else to do meanwhile.
#define TWEAK(v) \
	VMOV R7, v.D[0] \
	VMOV R8, v.D[1] \
	ASR  $63, R8, R9 \
	AND  R10, R9, R9 \
	EXTR $63, R7, R8, R8 \
	EOR  R7<<1, R9, R7

// CRYPT is what encrypt and decrypt do with their arguments, which are in R0 to
// R6 in their order. The keys are in V16 to V30: AES-128 ends with V25 and V26,
// AES-256 with V29 and V30.
#define CRYPT(aes, mix) \
	VLD1 (R3), [V8.B16] \
	SUB  $1, R2, R3 \
tweak: \
	VLD1.P 16(R1), [V31.B16] \
	AESE   V31.B16, V8.B16 \
	AESMC  V8.B16, V8.B16 \
	SUBS   $1, R3, R3 \
	BNE    tweak \
	VLD1.P 16(R1), [V31.B16] \
	AESE   V31.B16, V8.B16 \
	VLD1   (R1), [V31.B16] \
	VEOR   V31.B16, V8.B16, V8.B16 \
	VMOV   V8.D[0], R7 \
	VMOV   V8.D[1], R8 \
	MOVD   $0x87, R10 \
	VLD1.P 64(R0), [V16.B16, V17.B16, V18.B16, V19.B16] \
	VLD1.P 64(R0), [V20.B16, V21.B16, V22.B16, V23.B16] \
	VLD1.P 64(R0), [V24.B16, V25.B16, V26.B16, V27.B16] \
	VLD1   (R0), [V28.B16, V29.B16, V30.B16] \
blocks: \
	VLD1.P 64(R5), [V0.B16, V1.B16, V2.B16, V3.B16] \
	VLD1.P 64(R5), [V4.B16, V5.B16, V6.B16, V7.B16] \
	TWEAK(V8) \
	TWEAK(V9) \
	TWEAK(V10) \
	TWEAK(V11) \
	TWEAK(V12) \
	TWEAK(V13) \
	TWEAK(V14) \
	TWEAK(V15) \
	ADD_TWEAKS \
	ROUND(aes, mix, V16) \
	ROUND(aes, mix, V17) \
	ROUND(aes, mix, V18) \
	ROUND(aes, mix, V19) \
	ROUND(aes, mix, V20) \
	ROUND(aes, mix, V21) \
	ROUND(aes, mix, V22) \
	ROUND(aes, mix, V23) \
	ROUND(aes, mix, V24) \
	CMP $10, R2 \
	BNE aes256 \
	LAST(aes, V25, V26) \
	B   store \
aes256: \
	ROUND(aes, mix, V25) \
	ROUND(aes, mix, V26) \
	ROUND(aes, mix, V27) \
	ROUND(aes, mix, V28) \
	LAST(aes, V29, V30) \
store: \
	ADD_TWEAKS \
	VST1.P [V0.B16, V1.B16, V2.B16, V3.B16], 64(R4) \
	VST1.P [V4.B16, V5.B16, V6.B16, V7.B16], 64(R4) \
	SUBS   $128, R6, R6 \
	BNE    blocks \
	RET

// func encrypt(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int)
TEXT ·encrypt(SB), NOSPLIT, $0-56
	MOVD keys+0(FP), R0
	MOVD tweakKeys+8(FP), R1
	MOVD rounds+16(FP), R2
	MOVD iv+24(FP), R3
	MOVD dst+32(FP), R4
	MOVD src+40(FP), R5
	MOVD n+48(FP), R6
	CRYPT(AESE, AESMC)

// func decrypt(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int)
TEXT ·decrypt(SB), NOSPLIT, $0-56
	MOVD keys+0(FP), R0
	MOVD tweakKeys+8(FP), R1
	MOVD rounds+16(FP), R2
	MOVD iv+24(FP), R3
	MOVD dst+32(FP), R4
	MOVD src+40(FP), R5
	MOVD n+48(FP), R6
	CRYPT(AESD, AESIMC)
