//go:build !purego

package xts

import (
	"testing"

	"golang.org/x/sys/cpu"
)

// eachPath runs a test with every implementation that this processor can run.
func eachPath(t testing.TB, run func(path string)) {
	if !cpu.X86.HasAES {
		run("x/crypto")
		return
	}
	wide := hasVAES
	defer func() { hasVAES = wide }()
	if hasVAES = false; !wide {
		t.Log("this processor has no VAES: only AES-NI is tested")
	}
	run("AES-NI")
	if hasVAES = wide; wide {
		run("VAES")
	}
}
