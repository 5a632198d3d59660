// Package release tests what is shipped: that no binary of `make build` has
// the switch by which a test build takes defences out.
//
// It builds the Go programs by the Makefile's own lines. The plugin is C and
// needs a Slurm's headers: cgo/plugin/test/built.sh asks the same of it, in
// `make plugin-test`.
package release
