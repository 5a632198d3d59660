//go:build !purego

package xts

import "golang.org/x/sys/cpu"

// hasVAES takes the wide path on processors with AVX-512.
var hasVAES = cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ

func accelerated(key []byte) sectorCipher {
	if !cpu.X86.HasAES {
		return nil
	}
	return newSchedule(key)
}

func encrypt(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int) {
	if hasVAES {
		encryptVAES(keys, tweakKeys, rounds, iv, dst, src, n)
	} else {
		encryptAESNI(keys, tweakKeys, rounds, iv, dst, src, n)
	}
}

func decrypt(keys, tweakKeys *byte, rounds int, iv *[2]uint64, dst, src *byte, n int) {
	if hasVAES {
		decryptVAES(keys, tweakKeys, rounds, iv, dst, src, n)
	} else {
		decryptAESNI(keys, tweakKeys, rounds, iv, dst, src, n)
	}
}
