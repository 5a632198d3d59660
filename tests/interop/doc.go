// Package interop checks with stock programs that a sealed job is what
// docs/format.md says: ssh-keygen verifies its signature, the age command opens
// its encrypted part, and sh runs it as an ordinary script.
//
// It needs ssh-keygen (Debian: openssh-client) and the go command, which builds
// the age command of the version in go.mod: Debian's own is older than hybrid
// recipients. A missing program is a failure.
package interop
