// Package guest runs the tests of single packages that need a secure node's
// kernel, with device-mapper, on a node of the test cluster: every package
// under noded with a file guest_test.go (build tag guest) is compiled here and
// its whole test binary run there as root.
//
// It tests nothing itself, and the product is not installed on the node.
package guest
