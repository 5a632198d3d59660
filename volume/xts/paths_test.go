//go:build !amd64 || purego

package xts

import "testing"

// eachPath runs a test with the one implementation that there is.
func eachPath(t testing.TB, run func(path string)) {
	if accelerated(make([]byte, 32)) == nil {
		run("x/crypto")
		return
	}
	run("assembly")
}
